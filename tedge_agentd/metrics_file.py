"""Write the metrics of a pass where node_exporter's textfile collector reads them."""

import os
from collections.abc import Mapping
from typing import Any

from .core import metrics, model
from .host import files, opened


def write(directory: str, document: Mapping[str, Any]) -> model.Finding | None:
    """Replace the file in one step, for everybody to read; return why that cannot be done.

    The collector may read at any time, and a name that does not end in .prom is none of its business.
    """
    path = f"{directory}/{metrics.FILE}"
    try:
        data = metrics.render(document).encode(errors="replace")
        files.replace(path, data, mode=0o644, uid=os.geteuid(), gid=os.getegid(), durable=False)
    except (OSError, opened.Refused) as error:
        reason = error.reason if isinstance(error, opened.Refused) else error.strerror
        return model.Finding(
            code="metrics-not-written",
            severity=model.Severity.WARNING,
            where="metrics_dir",
            message=f"the metrics cannot be written to {path}: {reason}",
            remedy=f"systemctl edit tedge-agentd, and add: [Service] ReadWritePaths=-{directory}",
        )
    return None
