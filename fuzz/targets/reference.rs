//! Names of images and of mirrors: what is taken is written the same way again.
#![no_main]

use images::{Mirror, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(read) = text.parse::<Reference>() {
        let written = read.to_string();
        assert_eq!(written.parse::<Reference>().as_ref(), Ok(&read), "{written}");
        assert!(!read.registry().is_empty() && !read.repository().is_empty());
        assert!(read.tag().is_some() || read.digest().is_some());
        // It becomes a path of a URL.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "./_-".contains(c);
        assert!(read.repository().chars().all(is_plain) && !read.repository().contains(".."));
    }
    drop(text.parse::<Mirror>());
});
