#!/bin/sh
# Run once by the postgres image, on an empty volume: an owner and a database for each service.
set -eu
make_database() {
    psql --username "$POSTGRES_USER" --set ON_ERROR_STOP=1 --set name="$1" --set password="$2" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name" ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
}
make_database airflow "$AIRFLOW_DB_PASSWORD"
make_database mlflow "$MLFLOW_DB_PASSWORD"
