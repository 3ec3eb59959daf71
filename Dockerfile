FROM python:3.13-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN python -m venv /rio && /rio/bin/pip install --no-cache-dir '/src[all]'

FROM python:3.13-slim
RUN useradd --create-home rio && install --directory --owner=rio /data
COPY --from=build /rio /rio
COPY examples /app/examples
ENV PATH=/rio/bin:$PATH PYTHONUNBUFFERED=1 RIO_STORAGE=sqlite:////data/rio.db
WORKDIR /app
USER rio
VOLUME /data
EXPOSE 5000 8080
CMD ["sh", "-c", "exec rio run examples.metric_aggregator.service:registry --address $(hostname -i):5000 --http $(hostname -i):8080"]
