//! The claims of `slots`.

use std::path::Path;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::slots::{SlotError, Slots, VALUE_LEN_MAX};
use super::sim;
use crate::disk::{Disk, SimFault};

fn path() -> &'static Path {
    Path::new("/d/vote")
}

fn value(number: u64) -> Bytes {
    Bytes::from(number.to_le_bytes().repeat(1 + number as usize % 400))
}

#[tokio::test(start_paused = true)]
async fn the_last_acknowledged_value_or_a_newer_one_survives_every_power_cut() {
    let mut newer = 0;
    for seed in 0..500 {
        let mut dice = StdRng::seed_from_u64(seed);
        let disk = sim(seed);
        disk.create_dir(Path::new("/d")).await.unwrap();
        let (mut acked, mut tried) = (0, 0);
        for _ in 0..5 {
            disk.cut_power_after(dice.random_range(1..25));
            if let Ok((mut slots, found)) = Slots::open(disk.process(), path()).await {
                let found = found.map_or(0, |found| (acked..=tried).find(|n| *n > 0 && found == value(*n)).unwrap());
                assert!(found >= acked, "seed {seed}: {found} after {acked} was acknowledged");
                newer += u64::from(found > acked);
                acked = found;
                if dice.random_range(0..4) == 0 {
                    disk.inject(SimFault::NextSync);
                }
                loop {
                    tried += 1;
                    match slots.write(value(tried)).await {
                        Ok(()) => acked = tried,
                        Err(_) => break,
                    }
                    // Another life may write another value under the same sequence: never both.
                }
                assert!(matches!(slots.write(value(1)).await, Err(SlotError::Failed { .. })));
                if disk.is_powered() {
                    disk.kill();
                }
            }
            if !disk.is_powered() {
                disk.power_cycle();
            }
        }
    }
    assert!(newer > 50, "only {newer} unacknowledged values survived: too tame");
}

#[tokio::test(start_paused = true)]
async fn one_bad_slot_costs_nothing_and_two_are_damage() {
    let disk = sim(1);
    disk.create_dir(Path::new("/d")).await.unwrap();
    let (mut slots, found) = Slots::open(disk.process(), path()).await.unwrap();
    assert_eq!(found, None);
    for number in 1..4 {
        slots.write(value(number)).await.unwrap();
    }
    for slot in [0, 4096] {
        disk.rot(path(), slot + 40);
        let (_, found) = Slots::open(disk.process(), path()).await.unwrap();
        assert_eq!(found, Some(value(3)), "rot at {slot}");
    }
    for slot in [0, 4096] {
        disk.break_sector(path(), slot + 40);
        let (_, found) = Slots::open(disk.process(), path()).await.unwrap();
        assert_eq!(found, Some(value(3)), "the sector at {slot} cannot be read");
    }
    disk.rot(path(), 5);
    disk.rot(path(), 4096 + 5);
    assert!(matches!(Slots::open(disk.process(), path()).await, Err(SlotError::Damaged { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_value_fits_up_to_the_limit() {
    let disk = sim(1);
    disk.create_dir(Path::new("/d")).await.unwrap();
    let (mut slots, _) = Slots::open(disk.process(), path()).await.unwrap();
    let most = Bytes::from(vec![7; VALUE_LEN_MAX]);
    slots.write(most.clone()).await.unwrap();
    let over = slots.write(Bytes::from(vec![7; VALUE_LEN_MAX + 1])).await;
    assert!(matches!(over, Err(SlotError::TooLarge { .. })));
    assert_eq!(Slots::open(disk.process(), path()).await.unwrap().1, Some(most));
}
