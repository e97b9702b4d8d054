"""Writes the archives of this folder: what strangers could put into a layer, one trick each.

Run it after a change here: python3 crates/images/tests/archives/make.py
The expected answers stand in crates/images/src/unpack/tests.rs. The archives are seeds of the
fuzz target `unpack` too.
"""

from pathlib import Path

HERE = Path(__file__).parent
BLOCK = 512
END = bytes(2 * BLOCK)


def number(value, width):
    """An octal field; numbers that do not fit in it as GNU tar writes them, in base 256."""
    text = b"%0*o" % (width - 1, value)
    if len(text) < width:
        return text + b"\0"
    return b"\x80" + value.to_bytes(width - 1, "big")


def entry(name, kind="0", data=b"", link="", mode=0o644, uid=0, gid=0, size=None, sum_off=0):
    """One header and its content."""
    name = name if isinstance(name, bytes) else name.encode()
    link = link if isinstance(link, bytes) else link.encode()
    size = len(data) if size is None else size
    head = b"".join(
        [
            name.ljust(100, b"\0")[:100],
            number(mode, 8),
            number(uid, 8),
            number(gid, 8),
            number(size, 12),
            number(1_700_000_000, 12),
            b" " * 8,
            kind.encode(),
            link.ljust(100, b"\0")[:100],
            b"ustar\x0000",
            b"".ljust(64, b"\0"),
            number(1, 8),
            number(3, 8),
        ]
    ).ljust(BLOCK, b"\0")
    check = b"%06o\0 " % ((sum(head) + sum_off) & 0o777777)
    head = head[:148] + check + head[156:]
    return head + data + bytes(-len(data) % BLOCK)


def record(key, value):
    """A record of an extended header, which begins with its own length."""
    value = value if isinstance(value, bytes) else value.encode()
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def pax(*records, kind="x"):
    """An extended header."""
    return entry("pax", kind, b"".join(record(key, value) for key, value in records))


def long_name(name, kind="L"):
    """GNU tar's header for a long name (L) or link target (K)."""
    return entry("././@LongLink", kind, name.encode() + b"\0")


FOLDER = entry("a", "5", mode=0o755)
FILE = entry("a/file", data=b"content")

ARCHIVES = {
    # Out of the folder.
    "absolute": entry("/etc/passwd", data=b"x"),
    "parent": entry("../outside", data=b"x"),
    "parent-inside": FOLDER + entry("a/../../outside", data=b"x"),
    "parent-in-long-name": long_name("a/" * 60 + "../" * 70 + "outside") + entry("x", data=b"x"),
    "parent-in-pax": pax(("path", "../outside")) + entry("x", data=b"x"),
    "below-link": entry("out", "2", link="/etc") + entry("out/passwd", data=b"x"),
    "below-link-up": entry("up", "2", link="..") + entry("up/outside", data=b"x"),
    "below-links": FOLDER
    + entry("a/one", "2", link="..")
    + entry("a/one/two", "2", link="..")
    + entry("a/one/two/outside", data=b"x"),
    "folder-over-link": entry("out", "2", link="/etc") + entry("out", "5", mode=0o777),
    "file-over-link": entry("out", "2", link="/etc/passwd") + entry("out", data=b"x"),
    "hard-link-out": entry("passwd", "1", link="/etc/passwd"),
    "hard-link-up": entry("passwd", "1", link="../../etc/passwd"),
    "hard-link-through-link": entry("out", "2", link="/etc") + entry("p", "1", link="out/passwd"),
    "hard-link-to-nothing": entry("x", "1", link="nowhere"),
    "hard-link-to-folder": FOLDER + entry("x", "1", link="a"),
    "hard-link-before-file": entry("x", "1", link="a/file") + FOLDER + FILE,
    "hard-link-to-whiteout": entry(".wh.gone") + entry("x", "1", link="gone"),
    "link-to-nothing": entry("x", "2"),
    # Devices.
    "character-device": entry("null", "3"),
    "block-device": entry("disk", "4"),
    # Marks of the overlay.
    "overlay-opaque": pax(("SCHILY.xattr.trusted.overlay.opaque", "y")) + FOLDER,
    "overlay-redirect": pax(("SCHILY.xattr.trusted.overlay.redirect", "/etc")) + FOLDER,
    "overlay-user": pax(("SCHILY.xattr.user.overlay.whiteout", "y")) + entry("x"),
    # Whiteouts.
    "whiteout-of-nothing": entry(".wh."),
    "whiteout-of-itself": entry(".wh.."),
    "whiteout-of-parent": FOLDER + entry("a/.wh..."),
    "whiteout-and-file": entry("x", data=b"x") + entry(".wh.x"),
    "file-and-whiteout": entry(".wh.x") + entry("x", data=b"x"),
    "whiteout-and-folder": FOLDER + entry(".wh.a"),
    "whiteout-twice": entry(".wh.x") + entry(".wh.x"),
    "whiteout-folder": entry(".wh.a", "5"),
    "whiteout-link": entry(".wh.a", "2", link="/etc"),
    "whiteout-with-content": entry(".wh.a", data=b"x"),
    "below-whiteout-name": entry(".wh.a/file", data=b"x"),
    "below-whiteout": entry(".wh.a") + entry("a/file", data=b"x"),
    "whiteout-of-whiteout": entry(".wh..wh.x"),
    "aufs-links": entry(".wh..wh.plnk", "5"),
    "aufs-orphans": entry(".wh..wh.orph"),
    "opaque-root": entry(".wh..wh..opq"),
    "opaque-below-link": entry("out", "2", link="/etc") + entry("out/.wh..wh..opq"),
    # The same twice, or two things at once.
    "file-twice": FOLDER + FILE + FILE,
    "file-twice-by-dots": FOLDER + FILE + entry("./a//./file", data=b"x"),
    "file-over-folder": FOLDER + entry("a", data=b"x"),
    "folder-over-file": entry("a", data=b"x") + FOLDER,
    "below-file": entry("a", data=b"x") + entry("a/b", data=b"x"),
    "root-as-file": entry(".", data=b"x"),
    "root-as-link": entry("./", "2", link="/etc"),
    # Headers.
    "bad-checksum": entry("x", data=b"x", sum_off=1),
    "cut-header": entry("x", data=b"x")[:300],
    "cut-content": entry("x", data=b"x" * 2000)[:900],
    "huge-content": entry("x", size=1 << 50),
    "negative-content": entry("x", data=b"")[:124]
    + b"\xff" * 12
    + entry("x", data=b"")[136:],
    "no-name": entry(""),
    "long-part": long_name("n" * 300) + entry("x"),
    "long-path": long_name("d/" * 2100 + "x") + entry("x"),
    "deep": long_name("d/" * 600 + "x") + entry("x"),
    "zero-in-name": pax(("path", b"a\0b")) + entry("x"),
    "zero-in-long-name": entry("././@LongLink", "L", b"a\0b\0") + entry("x"),
    "two-long-names": long_name("one") + long_name("two") + entry("x"),
    "two-names": long_name("one") + pax(("path", "two")) + entry("x"),
    "two-extended": pax(("path", "one")) + pax(("path", "two")) + entry("x"),
    "path-twice": pax(("path", "one"), ("path", "two")) + entry("x"),
    "size-twice": pax(("size", "1024")) + entry("x", data=b"x"),
    "extended-without-entry": entry("x") + pax(("path", "y")),
    "extended-garbled": entry("pax", "x", b"nonsense") + entry("x"),
    "extended-cut": entry("pax", "x", b"90 path=x\n") + entry("x"),
    "extended-huge": entry("pax", "x", size=2 << 20) + bytes(4 * BLOCK),
    "global-path": pax(("path", "../outside"), kind="g") + entry("x"),
    "attributes-large": pax(("SCHILY.xattr.user.big", "x" * 70_000)) + entry("x"),
    "owner-large": entry("x", uid=65_536),
    "owner-in-pax": pax(("uid", "4294967295")) + entry("x"),
    "group-large": entry("x", gid=1 << 40),
    "sparse": entry("x", "S", data=b"x"),
    "sparse-in-pax": pax(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "1")) + entry("x"),
    "unknown-type": entry("x", "V"),
    "folder-with-content": entry("a", "5", data=b"x"),
    "link-with-content": entry("a", "2", link="b", data=b"x"),
    # What real images have, and what is fine.
    "good": entry("./", "5", mode=0o755)
    + FOLDER
    + FILE
    + entry("./a/", "5", mode=0o700, uid=65_535, gid=7)
    + entry("a/hard", "1", link="./a/file")
    + entry("a/link", "2", link="../../../etc/passwd")
    + entry("a/su", data=b"s", mode=0o4755)
    + entry("a/pipe", "6")
    + entry("a/.wh.gone")
    + entry("b/c/.wh..wh..opq")
    + pax(("path", b"a/\xff\xfe"), ("mtime", "1700000000.5"), ("comment", "x"))
    + entry("x", data=b"bytes")
    + pax(("SCHILY.xattr.user.note", b"a\nb"), ("SCHILY.xattr.security.selinux", "drop"))
    + entry("a/noted", data=b"n")
    + long_name("a/" + "n" * 200)
    + entry("x", data=b"long"),
    "comment": pax(("comment", "0123"), kind="g") + entry("x", data=b"x"),
}

if __name__ == "__main__":
    for old in HERE.glob("*.tar"):
        old.unlink()
    for name, content in ARCHIVES.items():
        tail = b"" if name.startswith("cut-") else END
        (HERE / f"{name}.tar").write_bytes(content + tail)
