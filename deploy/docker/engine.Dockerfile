# syntax=docker/dockerfile:1
# The engine: chat page, API, bots, retrieval and vision. Build it from the project's root:
#   docker build -f deploy/docker/engine.Dockerfile -t solemate-engine .
# For a machine with an NVIDIA card add
#   --build-arg EXTRAS="--extra telegram --extra slack --extra redis --extra tracing --extra train \
#     --extra gpu" --build-arg TORCH=auto
FROM python:3.11-slim-bookworm

# pg_dump for `solemate backup`: Debian 12 has version 15, which reads servers up to 15.
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-client tini \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv

WORKDIR /app
ARG EXTRAS="--extra telegram --extra slack --extra redis --extra tracing --extra serve-cpu"
ARG TORCH=cpu
COPY pyproject.toml requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv .venv \
    && uv pip install --python .venv/bin/python --torch-backend ${TORCH} \
        --constraint requirements.lock --requirements pyproject.toml ${EXTRAS}

COPY LICENSE README.md config.toml solemate.py ./
COPY bots bots
COPY core core
COPY training training
COPY data data
COPY clip_data clip_data
COPY deploy/profiles deploy/profiles
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python .venv/bin/python --no-deps --editable . \
    && useradd --system --uid 10001 --home-dir /state --create-home solemate \
    && install --directory --owner 10001 --mode 0700 /state/adapters /state/runs /state/datasets /backups

ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SOLEMATE__WEB__HOST=0.0.0.0 \
    SOLEMATE__DATABASE__FOLDER=/state \
    SOLEMATE__DATABASE__URL=sqlite:////state/solemate.db \
    SOLEMATE__LOGGING__FILE= \
    HF_HOME=/state/huggingface \
    NICEGUI_STORAGE_PATH=/state/nicegui
USER 10001
VOLUME /state
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=9)"]
# tini hands SIGTERM on, so that answers under way may end, and reaps what a model server leaves.
ENTRYPOINT ["tini", "--", "solemate"]
CMD ["up"]
