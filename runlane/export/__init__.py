"""The log outside its database: exports with a manifest, checked and folded offline, and imported elsewhere.

    from runlane.export import import_events, replay

    found = replay("production.jsonl", public_key="audit.pub")
    import_events("production.jsonl", "sqlite:///incident.db")

``app.audit.export`` writes one; ``runlane audit export|replay|import`` are the same on the command line.
"""

from runlane.export.archives import Archives, Kept
from runlane.export.formats import FORMATS
from runlane.export.importing import Imported, import_events
from runlane.export.manifest import Manifest
from runlane.export.replaying import Problem, Replayed, replay

__all__ = ["FORMATS", "Archives", "Imported", "Kept", "Manifest", "Problem", "Replayed", "import_events", "replay"]
