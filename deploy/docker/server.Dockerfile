# syntax=docker/dockerfile:1
# The machine with the large card: vLLM, LLaMA-Factory and Ray. Build it from the project's root:
#   docker build -f deploy/docker/server.Dockerfile -t solemate-server .
# The CUDA libraries come with torch; the host needs NVIDIA's driver and container toolkit.
FROM python:3.11-slim-bookworm

# Triton compiles kernels as it runs.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv

WORKDIR /app
ARG TORCH=auto
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv .venv \
    && uv pip install --python .venv/bin/python --torch-backend ${TORCH} \
        --constraint requirements.lock --requirements pyproject.toml \
        --extra train --extra train-gpu --extra gpu \
    && uv pip install --python .venv/bin/python "ray[default]>=2.52"
# vLLM and LLaMA-Factory want different versions of transformers.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv .venv-vllm \
    && uv pip install --python .venv-vllm/bin/python --torch-backend ${TORCH} "vllm>=0.30"

COPY LICENSE README.md config.toml solemate.py ./
COPY bots bots
COPY core core
COPY training training
COPY data data
COPY clip_data clip_data
COPY deploy/profiles deploy/profiles
COPY deploy/docker/healthy.py deploy/docker/healthy.py
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python .venv/bin/python --no-deps --editable . \
    && useradd --system --uid 10001 --home-dir /state --create-home solemate \
    && install --directory --owner 10001 --mode 0700 /state/adapters /state/runs /state/datasets

# A job may wait a week for a free card; Ray calls one failed after a quarter of an hour.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SOLEMATE_PROFILE=production \
    SOLEMATE__DATABASE__FOLDER=/state \
    SOLEMATE__LOGGING__FILE= \
    HF_HOME=/state/huggingface \
    RAY_AUTH_MODE=token \
    RAY_DISABLE_USAGE_STATS=1 \
    RAY_JOB_START_TIMEOUT_SECONDS=604800
USER 10001
VOLUME /state
EXPOSE 8000 8265
HEALTHCHECK --interval=15s --timeout=10s --start-period=900s --retries=3 \
    CMD ["python", "/app/deploy/docker/healthy.py"]
ENTRYPOINT ["tini", "--"]
CMD ["solemate", "serve", "--engine", "vllm", "--host", "0.0.0.0", "--port", "8000"]
