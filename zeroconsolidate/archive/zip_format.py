"""Zip's fixed fields, as PKWARE's APPNOTE 6.3 has them: what is read, and what is written."""

from __future__ import annotations

import struct

LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Before a record's data; its name and extra field follow."""
END = struct.Struct("<4s4H2IH")
"""Behind the directory."""
END64 = struct.Struct("<4sQ2H2I4Q")
END64_LOCATOR = struct.Struct("<4sIQI")
"""Where END64 begins."""
