//! The list in which the VMs of one Envoy process name themselves, by their epochs: shared data of Envoy, which outlives
//! each of them. So the first that comes back to a control plane can tell of the others.

/// The most VMs that are listed. One that traps never leaves the list, so the oldest make room.
const MOST: usize = 1024;

const SIZE: usize = size_of::<u64>();

/// The epochs in a list. Whatever follows the last whole number is ignored.
pub fn read(list: &[u8]) -> Vec<u64> {
    let numbers = list.as_chunks::<SIZE>().0.iter();
    numbers.map(|bytes| u64::from_le_bytes(*bytes)).collect()
}

/// The list with a VM in it; `None` if it is in there.
pub fn with(list: &[u8], epoch: u64) -> Option<Vec<u8>> {
    let mut vms = read(list);
    if vms.contains(&epoch) {
        return None;
    }
    vms.push(epoch);
    let excess = vms.len().saturating_sub(MOST);
    Some(write(vms.into_iter().skip(excess)))
}

/// The list without a VM; `None` if it is not in there.
pub fn without(list: &[u8], epoch: u64) -> Option<Vec<u8>> {
    let vms = read(list);
    vms.contains(&epoch)
        .then(|| write(vms.into_iter().filter(|other| *other != epoch)))
}

fn write(vms: impl Iterator<Item = u64>) -> Vec<u8> {
    vms.flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vms_come_and_go() {
        let one = with(&[], 7).unwrap();
        let two = with(&one, u64::MAX).unwrap();
        assert_eq!(read(&two), [7, u64::MAX]);
        assert_eq!(with(&two, 7), None);
        assert_eq!(read(&without(&two, 7).unwrap()), [u64::MAX]);
        assert_eq!(without(&one, 8), None);
        assert!(without(&one, 7).unwrap().is_empty());
    }

    #[test]
    fn the_oldest_make_room_and_a_torn_list_is_read_as_far_as_it_goes() {
        let mut list = Vec::new();
        for epoch in 1..=1025 {
            list = with(&list, epoch).unwrap();
        }
        let vms = read(&list);
        assert_eq!((vms.len(), vms[0], vms[1023]), (MOST, 2, 1025));
        list.push(1);
        assert_eq!(read(&list), vms);
    }
}
