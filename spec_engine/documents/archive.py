"""Documents that are zip archives: what is checked before any of their parts is unpacked.

Job: `open_archive`, which refuses damaged archives and those that would unpack to absurd sizes.
Non-job: the formats (`docx`, `pptx`, `epub`).
"""

import io
import zipfile

from spec_engine.errors import UnreadableDocument

MAX_UNPACKED_BYTES = 512 << 20
MAX_XML_BYTES = 96 << 20
MAX_PARTS = 20_000
_XML = (".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx")


def open_archive(data: bytes, name: str, damaged: str) -> zipfile.ZipFile:
    """The archive; zipfile never unpacks more of an entry than the entry declares.

    Raises `UnreadableDocument`: with the sentence `damaged`, or because it is unreasonably large once unpacked.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, RuntimeError, OSError) as error:
        raise UnreadableDocument(damaged) from error
    num_bytes = sum(entry.file_size for entry in entries)
    num_xml_bytes = sum(entry.file_size for entry in entries if entry.filename.lower().endswith(_XML))
    if len(entries) > MAX_PARTS or num_bytes > MAX_UNPACKED_BYTES or num_xml_bytes > MAX_XML_BYTES:
        raise UnreadableDocument(
            f"{name} would unpack to {num_bytes >> 20:,} MiB in {len(entries):,} parts, more than a document can be; "
            "it is refused for safety. Save the document again, or as PDF."
        )
    return archive
