FROM python:3.13-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python -m venv /rio && /rio/bin/pip install --no-cache-dir '/src[postgres,redis]'

FROM python:3.13-slim
RUN useradd --create-home rio && install --directory --owner=rio /data
COPY --from=build /rio /rio
COPY examples /app/examples
ENV PATH=/rio/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
USER rio
VOLUME /data
EXPOSE 5000
CMD ["sh", "-c", "exec rio run examples.ping_pong.service:registry --storage sqlite:////data/rio.db --address $(hostname -i):5000"]
