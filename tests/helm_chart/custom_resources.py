"""Of the custom resources that the chart makes: the fields it uses, as the operators' own schemas have them.

KEDA 2.x: ScaledObject of keda.sh/v1alpha1; Prometheus operator: ServiceMonitor of monitoring.coreos.com/v1.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}


def _fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _number(least: int, most: int = 2**31 - 1) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _resource(version: str, kind: str, spec: Schema) -> Schema:
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    return _fields(
        {
            "apiVersion": {"const": version},
            "kind": {"const": kind},
            "metadata": _fields({"name": _TEXT, "labels": labels}),
            "spec": spec,
        }
    )


_POLICY = _fields({"type": {"enum": ["Percent", "Pods"]}, "value": _number(1), "periodSeconds": _number(1, 1800)})
_RULES = _fields({"stabilizationWindowSeconds": _number(0, 3600)}, {"policies": {"type": "array", "items": _POLICY}})
_TRIGGER = _fields(
    {
        "type": {"const": "prometheus"},
        "metricType": {"enum": ["AverageValue", "Value"]},
        "metadata": _fields(  # of the Prometheus scaler: all are texts
            {
                "serverAddress": _TEXT,
                "query": _TEXT,
                "threshold": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
                "ignoreNullValues": {"enum": ["true", "false"]},
            },
            {"authModes": _TEXT},
        ),
    },
    {"authenticationRef": _fields({"name": _TEXT})},
)
_SCALED_OBJECT = _fields(
    {
        "scaleTargetRef": _fields({"name": _TEXT}),
        "minReplicaCount": _number(0),
        "maxReplicaCount": _number(1),
        "advanced": _fields(
            {
                "horizontalPodAutoscalerConfig": _fields(
                    {"behavior": _fields({"scaleUp": _RULES, "scaleDown": _RULES})},
                )
            }
        ),
        "triggers": {"type": "array", "items": _TRIGGER, "minItems": 1},
    }
)
_ENDPOINT = _fields(
    {"port": _TEXT, "path": {"const": "/metrics"}, "interval": _TEXT},
    {
        "scheme": {"enum": ["http", "https"]},
        "tlsConfig": _fields({"insecureSkipVerify": {"type": "boolean"}}),
        "authorization": _fields({"credentials": _fields({"name": _TEXT, "key": _TEXT})}),
    },
)
_SERVICE_MONITOR = _fields(
    {
        "jobLabel": _TEXT,
        "selector": _fields({"matchLabels": {"type": "object"}}),
        "endpoints": {"type": "array", "items": _ENDPOINT, "minItems": 1},
    }
)

SCHEMAS = {
    "ScaledObject": _resource("keda.sh/v1alpha1", "ScaledObject", _SCALED_OBJECT),
    "ServiceMonitor": _resource("monitoring.coreos.com/v1", "ServiceMonitor", _SERVICE_MONITOR),
}
