//! Ports for new nodes. Pure but for reading the kernel's table.

use std::{collections::BTreeSet, fs};

/// Where free ports are looked for: above what services use, below what the kernel gives to clients (32768 up).
const FROM: u16 = 20_000;
const TO: u16 = 32_000;

/// UDP ports that are taken on this machine.
pub(super) fn taken() -> BTreeSet<u16> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut ports = ports_of(&read("/proc/net/udp"));
    ports.extend(ports_of(&read("/proc/net/udp6")));
    ports
}

/// Local ports in a table of `/proc/net`: `  1: 0100007F:1F90 00000000:0000 …`.
fn ports_of(table: &str) -> BTreeSet<u16> {
    let local = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    table.lines().skip(1).filter_map(local).collect()
}

/// `count` free ports, the first at a place in the range that `luck` chooses: clusters that are started at the same
/// time do not look in the same order.
pub(super) fn choose(taken: &BTreeSet<u16>, count: usize, luck: u16) -> Option<Vec<u16>> {
    let len = TO - FROM;
    let candidates = (0..len).map(|step| FROM + (luck % len + step) % len);
    let ports: Vec<u16> = candidates.filter(|port| !taken.contains(port)).take(count).collect();
    (ports.len() == count).then_some(ports)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FROM, TO, choose, ports_of};

    #[test]
    fn taken_ports_are_read_from_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n  \
             101: 0100007F:4E20 00000000:0000 07 00000000:00000000 00:00000000 00000000     0\n \
             102: 00000000000000000000000001000000:4E21 00000000000000000000000000000000:0000 07\n";
        assert_eq!(ports_of(table), BTreeSet::from([20_000, 20_001]));
        assert_eq!(ports_of(""), BTreeSet::new());
    }

    #[test]
    fn chosen_ports_are_free_distinct_and_in_the_range() {
        let taken = BTreeSet::from([20_001, 20_003]);
        assert_eq!(choose(&taken, 3, 0), Some(vec![20_000, 20_002, 20_004]));
        assert_eq!(choose(&taken, 2, TO - FROM - 1), Some(vec![TO - 1, FROM]), "the range is a circle");
        assert_eq!(choose(&(FROM..TO).collect(), 1, 7), None);
    }
}
