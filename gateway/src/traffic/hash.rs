//! Hashes on which all gateways agree, whatever their version, machine and start: what belongs together must go to the
//! same endpoint through each of them.
//!
//! Not for tables that a client could fill: the hash has no secret. Who chooses keys so that they meet at one endpoint
//! could as well send the same key.

use std::net::IpAddr;

/// FNV-1a (Fowler, Noll, Vo), 64 bits, mixed at the end: of keys that differ only in their last byte FNV alone leaves
/// the high bits alike.
pub fn of(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(folded)
}

/// A client is the same whether its address is written as IPv4 or as IPv4 in IPv6.
pub fn of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => of(&address.octets()),
        IpAddr::V6(address) => of(&address.octets()),
    }
}

/// SplitMix64's finalizer (Steele, Lea, Flood, 2014): a permutation in which every bit depends on every other.
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_never_change() {
        // From one version to the next either: a fleet of gateways is not restarted all at once.
        assert_eq!(of(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_ne!(of(b"session-1") >> 32, of(b"session-2") >> 32);
    }
}
