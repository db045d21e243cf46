# docker build --target cpu  --build-arg TORCH_INDEX_URL=... -t reranker-serve:cpu .
# docker build --target cuda -t reranker-serve:cuda .
#
# TORCH_INDEX_URL: PyTorch's index of CPU builds; without it the cpu image carries CUDA, gigabytes of it.
FROM python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.txt requirements-demo.txt requirements-dev.txt ./
# An image has the exporter of traces and the client of Redis, too; they are loaded only where variables ask for them.
RUN grep '^torch==' requirements.txt > torch.txt \
    && grep -v '^-e' requirements.txt > wanted.txt \
    && grep -E '^(opentelemetry|limits|redis)' requirements-dev.txt >> wanted.txt \
    && grep '^accelerate' requirements-dev.txt > accelerate.txt

FROM build AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY src/reranker_serve src/reranker_serve
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM build AS packages-cuda
RUN pip install -r torch.txt
# With accelerate weights go straight to the GPU.
RUN pip install -r wanted.txt -r accelerate.txt && pip install --no-deps -r requirements-demo.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl

FROM build AS packages-cpu
ARG TORCH_INDEX_URL=
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -r torch.txt
RUN pip install -r wanted.txt && pip install --no-deps -r requirements-demo.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-deps /wheels/*.whl

FROM python:3.12-slim-bookworm AS runtime
RUN useradd --uid 10001 --create-home reranker && install -d -o reranker -g reranker /models
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 RERANKER_MODEL_CACHE_DIR=/models
WORKDIR /home/reranker
USER 10001
VOLUME /models
EXPOSE 8000
# A first start may download gigabytes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "-m", "reranker_serve.ready"]
ENTRYPOINT ["reranker-serve"]
CMD ["serve"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/venv /opt/venv

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
