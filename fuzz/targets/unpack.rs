//! Archives of layers: any bytes become a layer whose digest holds, the same one twice, or are
//! refused; and nothing beside the layer's own folder changes.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use blobs::Digest;
use images::{LayerStore, unpack_layer};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

/// In memory: a run makes millions of files.
static ROOT: LazyLock<PathBuf> =
    LazyLock::new(|| PathBuf::from(format!("/dev/shm/palisade-fuzz-{}", std::process::id())));

static STORE: LazyLock<LayerStore> = LazyLock::new(|| {
    for path in ["outside/etc", "outside/a"] {
        fs::create_dir_all(ROOT.join(path)).unwrap();
    }
    fs::write(ROOT.join("outside/etc/passwd"), "stays").unwrap();
    LayerStore::open(ROOT.join("store")).unwrap()
});

/// What lies beside the layer's folder, as far as an archive could change it.
fn neighbours() -> BTreeMap<PathBuf, (u32, u32, u64, u64)> {
    let mut seen = BTreeMap::new();
    let mut look = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        seen.insert(path.to_owned(), (meta.mode(), meta.uid(), meta.size(), meta.nlink()));
    };
    for folder in ["", "outside", "outside/etc", "outside/a", "store"] {
        let folder = ROOT.join(folder);
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Of the store's own folders the layers in the making change.
            if path.parent() != Some(&ROOT.join("store")) || path.is_file() {
                look(&path);
            }
        }
    }
    look(Path::new("/etc/passwd"));
    look(Path::new("/etc"));
    seen
}

/// Without right checksums nothing behind a header is ever reached; every second input gets them.
fn mend(data: &mut [u8]) {
    let mut at = 0;
    while at + BLOCK <= data.len() {
        let head = &mut data[at..at + BLOCK];
        if head.iter().any(|byte| *byte != 0) {
            head[148..156].fill(b' ');
            let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
            head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let digits = head[124..136].iter().take_while(|byte| byte.is_ascii_digit());
        let text: String = digits.map(|byte| char::from(*byte)).collect();
        let size = usize::from_str_radix(&text, 8).unwrap_or(0);
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|it| it.checked_add(at))
        else {
            return;
        };
        let Some(next) = next.checked_add(BLOCK) else { return };
        at = next;
    }
}

fn unpack(data: &[u8]) -> Option<Digest> {
    let draft = STORE.draft().unwrap();
    match unpack_layer(data, &draft.upper()) {
        Ok(()) => STORE.commit(draft).expect("what was unpacked cannot be listed"),
        Err(_) => None,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut data = data.to_vec();
    if data.last().is_some_and(|byte| byte % 2 == 0) {
        mend(&mut data);
    }
    LazyLock::force(&STORE);
    let before = neighbours();
    let layer = unpack(&data);
    assert_eq!(before, neighbours(), "something beside the layer changed");
    if let Some(digest) = layer {
        STORE.verify(digest).expect("a layer is not what its name says");
        assert_eq!(unpack(&data), Some(digest), "the same archive became another layer");
        assert!(STORE.remove(digest).unwrap());
    }
});
