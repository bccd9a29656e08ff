"""obstore alone, without the product's code: what a server answers to it."""

from __future__ import annotations

from obstore.store import S3Store

from turbomim.benchmarks.stores.weed import BUCKET, FULL, Keys


def client(
    endpoint: str, keys: Keys = FULL, bucket: str = BUCKET, prefix: str = "", timeout: str = "30s"
) -> S3Store:
    """A client of a bucket that never asks twice."""
    return S3Store(
        bucket,
        prefix=prefix or None,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=keys.access,
        secret_access_key=keys.secret,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": timeout},
        retry_config={"max_retries": 0},
    )
