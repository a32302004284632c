"""How ingested assets are put in an order that depends on their content only."""

from genblaze_dagster.core.document import hashed_asset_text
from genblaze_dagster.core.models import Asset


def asset_provenance_key(asset: Asset) -> tuple[str, int, str]:
    """Return the sort key of an asset: its sha256, its size in bytes, and what is hashed of it.

    Raises:
        ManifestError: the asset's metadata cannot be hashed; see `canonical_hash`.
    """
    size = -1 if asset.size_bytes is None else asset.size_bytes
    return asset.sha256 or "", size, hashed_asset_text(asset)
