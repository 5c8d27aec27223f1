//! A link-layer address, as the program computes with it and as people write it.

use core::{fmt, str::FromStr};

/// A link-layer address of six bytes in one word, the first byte lowest; the upper two are 0. As text it is
/// `ee:ee:ee:ee:ee:ee`, also for serde (feature `serde`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(try_from = "std::string::String", into = "std::string::String")
)]
pub struct Lladdr(u64);

impl Lladdr {
    const BITS: u32 = 48;

    /// The address of these bytes, in wire order.
    #[inline(always)]
    pub const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Lladdr(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// The address in the lower six bytes of a word.
    #[inline(always)]
    pub const fn of_word(word: u64) -> Self {
        Lladdr(word & ((1 << Self::BITS) - 1))
    }

    /// The word; its upper two bytes are 0.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Its bytes, in wire order.
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// Whether it is a group's: broadcast or multicast.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 & 1 != 0
    }
}

impl fmt::Display for Lladdr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.bytes();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text is no link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoLladdr;

impl fmt::Display for NoLladdr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a link-layer address is six bytes such as ee:ee:ee:ee:ee:ee")
    }
}

impl core::error::Error for NoLladdr {}

impl FromStr for Lladdr {
    type Err = NoLladdr;

    fn from_str(text: &str) -> Result<Self, NoLladdr> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() <= 2).ok_or(NoLladdr)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NoLladdr)?;
        }
        if parts.next().is_none() { Ok(Lladdr::new(bytes)) } else { Err(NoLladdr) }
    }
}

#[cfg(feature = "serde")]
impl TryFrom<std::string::String> for Lladdr {
    type Error = NoLladdr;

    fn try_from(text: std::string::String) -> Result<Self, NoLladdr> {
        text.parse()
    }
}

#[cfg(feature = "serde")]
impl From<Lladdr> for std::string::String {
    fn from(lladdr: Lladdr) -> Self {
        std::string::ToString::to_string(&lladdr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    #[test]
    fn an_address_is_the_same_in_a_word() {
        let address = Lladdr::new([1, 2, 3, 4, 5, 6]);
        assert_eq!(address.bytes(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(Lladdr::of_word(0xffff_0605_0403_0201), address);
        assert_ne!(Lladdr::of_word(0x0705_0403_0201), address);
    }

    #[test]
    fn a_group_address_has_the_first_bit() {
        let is_group =
            [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 0, 0, 0, 0, 1]].map(|bytes| Lladdr::new(bytes).is_group());
        assert_eq!(is_group, [true, true, false]);
    }

    #[test]
    fn an_address_is_the_same_as_text() {
        let address: Lladdr = "ee:0:1:a:ff:2".parse().unwrap();
        assert_eq!(address.to_string(), "ee:00:01:0a:ff:02");
        for bad in ["", "ee", "ee:ee:ee:ee:ee", "1:2:3:4:5:6:7", "gg:0:0:0:0:0", "100:0:0:0:0:0", "+1:0:0:0:0:0:0"] {
            assert!(bad.parse::<Lladdr>().is_err(), "{bad}");
        }
    }
}
