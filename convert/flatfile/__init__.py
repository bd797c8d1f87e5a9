"""The flat file: what it holds, its reader, and apart from it its writer.

The reader needs neither the writer nor anything that a system other than POSIX may lack.
"""

from .reader import FlatFile

__all__ = ["FlatFile"]
