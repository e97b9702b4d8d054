//! Text that comes in pieces.

/// Length of the part of `data` that ends with a whole UTF-8 character: the rest is kept for the
/// next piece, so that no character is torn.
pub fn whole(data: &[u8]) -> usize {
    // The last one begins at the last byte that goes on with no other; it has four at most.
    let back = data.iter().rev().take(3).position(|byte| byte & 0xc0 != 0x80);
    let Some(begin) = back.map(|back| data.len() - 1 - back) else { return data.len() };
    match std::str::from_utf8(&data[begin..]) {
        Err(error) if error.error_len().is_none() => begin,
        Ok(_) | Err(_) => data.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_torn() {
        let text = "añ€".as_bytes();
        assert_eq!(whole(text), text.len());
        assert_eq!(whole(&text[..2]), 1);
        assert_eq!(whole(&text[..4]), 3);
        assert_eq!(whole(&[b'a', 0xff, b'b']), 3);
        assert_eq!(whole(&[0xff, b'a', 0xe2, 0x82]), 2);
        assert_eq!(whole("a🦀".as_bytes()), 5);
        assert_eq!(whole(&"a🦀".as_bytes()[..4]), 1);
        assert_eq!(whole(&[0x80; 5]), 5);
        assert_eq!(whole(&[]), 0);
    }
}
