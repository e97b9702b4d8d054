//! Manifests, indexes and configurations: read within their limits, or refused.
#![no_main]

use images::limits::{IMAGE_LAYERS_MAX, PULL_BYTES_MAX};
use images::{Manifest, parse_config, parse_manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Manifest::Image { layers, .. }) = parse_manifest(data) {
        assert!(layers.len() <= IMAGE_LAYERS_MAX);
        assert!(layers.iter().map(|layer| layer.size).sum::<u64>() <= PULL_BYTES_MAX);
    }
    for layers in 0..4 {
        if let Ok(read) = parse_config(data, layers) {
            assert_eq!(read.diff_ids.len(), layers);
            assert!(read.config.workdir().starts_with('/'));
            assert!(
                read.config
                    .env
                    .iter()
                    .all(|(name, value)| !name.contains('\0') && !value.contains('\0'))
            );
        }
    }
});
