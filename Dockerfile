FROM python:3.13-slim
WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY alembic.ini ./
COPY alembic alembic
COPY app app
USER nobody
CMD ["python", "-m", "app", "run", "--host", "0.0.0.0"]
