//! Exempt prefixes, as the kernel program looks them up: by group and far end.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use aya::{
    Pod,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use meter_common::{ExemptV4, ExemptV6, GROUP_BITS, first_byte_bit};

use super::error::HostError;

/// One trie a family, for all groups.
pub(super) struct Exempt {
    v4: LpmTrie<MapData, ExemptV4, u32>,
    v6: LpmTrie<MapData, ExemptV6, u32>,
}

impl Exempt {
    pub(super) const fn new(
        v4: LpmTrie<MapData, ExemptV4, u32>,
        v6: LpmTrie<MapData, ExemptV6, u32>,
    ) -> Self {
        Self { v4, v6 }
    }

    /// The groups that have prefixes, whoever put them there.
    pub(super) fn groups(&self) -> Result<BTreeSet<u32>, HostError> {
        let failed =
            |error| HostError::system("list the exempt prefixes", super::maps::io_error(error));
        let v4 = self.v4.keys().map(|key| key.map(|key| key.data().group));
        let v6 = self.v6.keys().map(|key| key.map(|key| key.data().group));
        v4.chain(v6).collect::<Result<_, _>>().map_err(failed)
    }

    /// From now on these and no others are the group's.
    pub(super) fn set(&mut self, group: u32, prefixes: &[IpNet]) -> Result<(), HostError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => v4.push(key_v4(group, *prefix)),
                IpNet::V6(prefix) => v6.push(key_v6(group, *prefix)),
            }
        }
        replace(&mut self.v4, &v4, |data| data.group == group)?;
        replace(&mut self.v6, &v6, |data| data.group == group)
    }
}

/// [`meter_common::Machine::never_exempt`] for a group of these.
pub(super) fn never_exempt(prefixes: &[IpNet]) -> u64 {
    let bytes = prefixes.iter().flat_map(|prefix| match prefix {
        IpNet::V4(prefix) => prefix.network().octets()[0]..=prefix.broadcast().octets()[0],
        IpNet::V6(prefix) => prefix.network().octets()[0]..=prefix.broadcast().octets()[0],
    });
    !bytes.fold(0, |some, byte| some | first_byte_bit(byte))
}

fn key_v4(group: u32, prefix: Ipv4Net) -> (u32, ExemptV4) {
    let address = Ipv4Addr::octets(&prefix.network());
    let length = GROUP_BITS + u32::from(prefix.prefix_len());
    (length, ExemptV4 { group, address })
}

fn key_v6(group: u32, prefix: Ipv6Net) -> (u32, ExemptV6) {
    let address = Ipv6Addr::octets(&prefix.network());
    let length = GROUP_BITS + u32::from(prefix.prefix_len());
    (length, ExemptV6 { group, address })
}

/// What is new comes first, so that what stays exempt always was.
fn replace<K: Pod + PartialEq>(
    trie: &mut LpmTrie<MapData, K, u32>,
    wanted: &[(u32, K)],
    is_ours: impl Fn(&K) -> bool,
) -> Result<(), HostError> {
    let failed = |attempted: &str, error: aya::maps::MapError| {
        HostError::system(attempted, super::maps::io_error(error))
    };
    let found: Result<Vec<_>, _> = trie
        .keys()
        .map(|key| key.map(|key| (key.prefix_len(), key.data())))
        .collect();
    let found = found.map_err(|error| failed("list the exempt prefixes", error))?;
    for (length, data) in wanted {
        trie.insert(&Key::new(*length, *data), 1, 0)
            .map_err(|error| failed("add an exempt prefix", error))?;
    }
    for (length, data) in found {
        if is_ours(&data) && !wanted.contains(&(length, data)) {
            trie.remove(&Key::new(length, data))
                .map_err(|error| failed("remove an exempt prefix", error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn first_byte(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(address) => address.octets()[0],
            IpAddr::V6(address) => address.octets()[0],
        }
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u32>(), 0..=32u8).prop_map(|(address, length)| {
            IpNet::new(Ipv4Addr::from_bits(address).into(), length).unwrap()
        });
        let v6 = (any::<u128>(), 0..=128u8).prop_map(|(address, length)| {
            IpNet::new(Ipv6Addr::from_bits(address).into(), length).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_is_never_exempt_lies_in_no_prefix(
            prefixes in prop::collection::vec(prefix(), 0..20),
            v4 in any::<u32>(),
            v6 in any::<u128>(),
        ) {
            let never = never_exempt(&prefixes);
            // Anywhere, and at the edges of each prefix.
            let edges = prefixes.iter().flat_map(|prefix| [prefix.network(), prefix.broadcast()]);
            let anywhere = [Ipv4Addr::from_bits(v4).into(), Ipv6Addr::from_bits(v6).into()];
            for address in edges.chain(anywhere) {
                let is_exempt = prefixes.iter().any(|prefix| prefix.contains(&address));
                prop_assert!(!is_exempt || never & first_byte_bit(first_byte(address)) == 0);
            }
        }
    }

    #[test]
    fn what_begins_like_no_prefix_is_not_looked_up() {
        let of = |prefixes: &[&str]| {
            let prefixes: Vec<_> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
            !never_exempt(&prefixes)
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&["10.0.0.0/8", "10.1.0.0/16"]), 1 << 10);
        assert_eq!(of(&["2001:db8::/32"]), 1 << 0x20);
        // 4 to 7.
        assert_eq!(of(&["4.0.0.0/6"]), 0xf0);
        assert_eq!(of(&["0.0.0.0/0"]), u64::MAX);
        assert_eq!(of(&["::/1"]), u64::MAX);
    }
}
