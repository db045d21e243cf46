{{- define "reranker.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "reranker.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "reranker.labels" -}}
{{ include "reranker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "reranker.image" -}}
{{- $kind := ternary "cuda" "cpu" (gt (int .Values.gpu.count) 0) -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default (printf "%s-%s" .Chart.AppVersion $kind)) -}}
{{- end -}}

{{- define "reranker.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "reranker.name" .) -}}
{{- end -}}

{{- define "reranker.claim" -}}
{{- with .Values.model.volume -}}
{{- if .existingClaim -}}
{{- .existingClaim -}}
{{- else if .claim.create -}}
{{- printf "%s-models" (include "reranker.name" $) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where the server itself never calls the hub. */}}
{{- define "reranker.offline" -}}
{{- if or .Values.model.initDownload .Values.model.path .Values.settings.use_offline_mode -}}true{{- end -}}
{{- end -}}

{{/* "true" where a pod downloads: its server, or its init container. */}}
{{- define "reranker.downloads" -}}
{{- if or .Values.model.initDownload (not (include "reranker.offline" .)) -}}true{{- end -}}
{{- end -}}

{{/* Threads of a worker: its share of the requested cores, where nothing else tells the server how many it has. */}}
{{- define "reranker.threads" -}}
{{- $cpu := toString (dig "requests" "cpu" "" .Values.resources) -}}
{{- $limit := dig "limits" "cpu" "" .Values.resources -}}
{{- if and $cpu (not $limit) (eq (int .Values.gpu.count) 0) -}}
{{- $milli := ternary (trimSuffix "m" $cpu | float64) (mulf (float64 $cpu) 1000.0) (hasSuffix "m" $cpu) -}}
{{- max 1 (div (int (divf $milli 1000.0)) (int (.Values.settings.workers | default 1))) -}}
{{- end -}}
{{- end -}}

{{/* The server's options as a map. Numbers are written as JSON, as Go would write 2000000 as 2e+06. */}}
{{- define "reranker.options" -}}
{{- $options := dict -}}
{{- with include "reranker.threads" . -}}{{- $_ := set $options "cpu_threads" . -}}{{- end -}}
{{- if gt (int .Values.gpu.count) 0 -}}{{- $_ := set $options "device" "cuda" -}}{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- if ne (toString $value) "<nil>" -}}
{{- $_ := set $options $name (ternary $value (toJson $value) (kindIs "string" $value)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $options "host" "0.0.0.0" -}}
{{- $_ := set $options "port" "8000" -}}
{{- with .Values.model -}}
{{- $_ := set $options "model_cache_dir" "/models" -}}
{{- $_ := set $options "model_name" .name -}}
{{- if .revision -}}{{- $_ := set $options "model_revision" .revision -}}{{- end -}}
{{- if .path -}}{{- $_ := set $options "model_path" .path -}}{{- end -}}
{{- end -}}
{{- if include "reranker.offline" . -}}{{- $_ := set $options "use_offline_mode" "true" -}}{{- end -}}
{{- if .Values.keys.secret -}}
{{- $_ := set $options "api_key_file" (printf "/etc/reranker-serve/keys/%s" .Values.keys.item) -}}
{{- end -}}
{{- if .Values.tls.secret -}}
{{- $_ := set $options "tls_certfile" "/etc/reranker-serve/tls/tls.crt" -}}
{{- $_ := set $options "tls_keyfile" "/etc/reranker-serve/tls/tls.key" -}}
{{- end -}}
{{- $_ := set $options "drain_delay" (toJson .Values.drain.delaySeconds) -}}
{{- $_ := set $options "drain_timeout" (toJson .Values.drain.timeoutSeconds) -}}
{{- toJson $options -}}
{{- end -}}

{{/* What each container may do, and where it may write: /tmp and /models. */}}
{{- define "reranker.container" -}}
image: {{ include "reranker.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
# The server's last line says what to do: `kubectl describe pod` shows it.
terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{- define "reranker.writable" -}}
- name: HOME
  value: /tmp
- name: HF_HOME
  value: /models/.huggingface
{{- end -}}

{{- define "reranker.token" -}}
{{- with .Values.model.tokenSecret -}}
{{- if .name -}}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .name | quote }}
      key: {{ .key | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "reranker.probe" -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ ternary "HTTPS" "HTTP" (not (empty .root.Values.tls.secret)) }}
{{- end -}}

{{/* The sum over all pods, of which each is to have `threshold`. */}}
{{- define "reranker.trigger" -}}
- type: prometheus
  metricType: AverageValue
  metadata:
    serverAddress: {{ .prometheus.serverAddress | quote }}
    query: {{ .query | quote }}
    threshold: {{ .threshold | toJson | quote }}
    # No figures are an error, with which the pods stay as many as they are, and not a sign that nothing waits.
    ignoreNullValues: "false"
  {{- with .prometheus.authModes }}
    authModes: {{ . | quote }}
  {{- end }}
  {{- with .prometheus.authentication }}
  authenticationRef:
    name: {{ . | quote }}
  {{- end }}
{{- end -}}

{{/* "true" where callers need a key. */}}
{{- define "reranker.keyed" -}}
{{- $named := list -}}
{{- range .Values.extraEnv -}}{{- $named = append $named .name -}}{{- end -}}
{{- if or .Values.keys.secret (has "RERANKER_API_KEY" $named) (has "RERANKER_API_KEY_FILE" $named) -}}true{{- end -}}
{{- end -}}

{{/* What would fail only in the cluster, or only on the day that it matters. */}}
{{- define "reranker.check" -}}
{{- $values := .Values -}}
{{- $pods := ternary $values.autoscaling.maxReplicas $values.replicas $values.autoscaling.enabled | int -}}
{{- $waiting := $values.settings.max_queue_seconds | default 30 -}}
{{- if lt (float64 $values.drain.timeoutSeconds) (addf $values.drain.delaySeconds $waiting) -}}
{{- fail (printf "drain.timeoutSeconds: should be at least %v, drain.delaySeconds and the %v seconds of work that may be admitted (settings.max_queue_seconds), or a pod that goes drops requests" (addf $values.drain.delaySeconds $waiting) $waiting) -}}
{{- end -}}
{{- with $values.model.volume -}}
{{- if and .claim.create (not .existingClaim) (eq .claim.accessMode "ReadWriteOnce") (or (gt $pods 1) (ne $values.strategy.type "Recreate")) -}}
{{- fail "model.volume.claim.accessMode: ReadWriteOnce is for one pod at a time; set ReadWriteMany, or one replica and strategy.type Recreate, or leave the claim out" -}}
{{- end -}}
{{- end -}}
{{- if and $values.model.initDownload $values.model.path -}}
{{- fail "model.initDownload: with model.path there is nothing to download; set one of the two" -}}
{{- end -}}
{{- if and $values.model.initDownload $values.model.revision (not (regexMatch "^[0-9a-f]{40}$" $values.model.revision)) -}}
{{- fail "model.revision: with model.initDownload it should be a commit of 40 digits, as the server cannot ask the hub where a tag or branch is" -}}
{{- end -}}
{{- if and (eq (toString $values.settings.enable_metrics) "false") (or $values.autoscaling.enabled $values.serviceMonitor.enabled) -}}
{{- fail "settings.enable_metrics: autoscaling and serviceMonitor read /metrics; leave it true, or turn them off" -}}
{{- end -}}
{{- if and (include "reranker.keyed" .) $values.serviceMonitor.enabled (not $values.serviceMonitor.keySecret.name) -}}
{{- fail "serviceMonitor.keySecret.name: /metrics needs a key where callers do (keys.secret, or RERANKER_API_KEY in extraEnv); name the Secret that holds one for Prometheus" -}}
{{- end -}}
{{- with $values.autoscaling -}}
{{- if and .enabled (not .prometheus.serverAddress) -}}
{{- fail "autoscaling.prometheus.serverAddress: should be the address of the Prometheus that scrapes the pods" -}}
{{- end -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail "autoscaling.maxReplicas: should be at least minReplicas" -}}
{{- end -}}
{{- end -}}
{{- end -}}
