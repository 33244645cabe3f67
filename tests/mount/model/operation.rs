//! Operations, and how they are chosen.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// A path relative to the place, `x/y`.
pub(crate) type Relative = String;

/// One system call, or two.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Create { path: Relative, exclusive: bool, truncate: bool, append: bool, mode: u32 },
    OpenToRead { path: Relative },
    Close { handle: usize },
    Write { handle: usize, offset: u64, len: usize, seed: u8 },
    WriteOn { handle: usize, len: usize, seed: u8 },
    Read { handle: usize, offset: u64, len: usize },
    TruncateHandle { handle: usize, len: u64 },
    Truncate { path: Relative, len: u64 },
    Allocate { handle: usize, offset: u64, len: u64, kind: Allocation },
    CopyRange { from: usize, from_offset: u64, to: usize, to_offset: u64, len: u64 },
    Sync { handle: usize },
    StatHandle { handle: usize },
    Stat { path: Relative },
    ReadWhole { path: Relative },
    Rename { from: Relative, to: Relative, kind: Renaming },
    Link { from: Relative, to: Relative },
    Unlink { path: Relative },
    MakeDirectory { path: Relative, mode: u32 },
    RemoveDirectory { path: Relative },
    MakeSymlink { path: Relative, target: String },
    ReadLink { path: Relative },
    SetMode { path: Relative, mode: u32 },
    SetTimes { path: Relative, seconds: i64, nanoseconds: i64 },
    List { path: Relative },
    SetXattr { path: Relative, name: u8, len: usize, kind: Setting },
    Xattr { path: Relative, name: u8 },
    RemoveXattr { path: Relative, name: u8 },
    ListXattrs { path: Relative },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Allocation {
    Extend,
    KeepSize,
    Punch,
    Zero,
    ZeroKeepSize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Renaming {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Setting {
    Any,
    Create,
    Replace,
}

/// Handles open at once.
pub(crate) const HANDLES: usize = 6;

/// Few names, so that they meet.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "é"];

fn path(random: &mut StdRng) -> Relative {
    let depth = *[1, 1, 1, 2, 2, 3].choose(random).unwrap();
    (0..depth).map(|_| *NAMES.choose(random).unwrap()).collect::<Vec<_>>().join("/")
}

/// Offsets and lengths near what matters: blocks, what may lie inline, a chunk.
fn position(random: &mut StdRng) -> u64 {
    let near = *[0, 0, 1, 512, 4096, 4096, 8192, 65536, 1 << 20, 4 << 20, 5 << 20].choose(random).unwrap();
    match random.random_range(0..4) {
        0 => near,
        1 => near + random.random_range(0..5000),
        2 => u64::saturating_sub(near, random.random_range(0..3)),
        _ => random.random_range(0..=near),
    }
}

fn len(random: &mut StdRng) -> usize {
    let near = *[0, 1, 10, 100, 1000, 4095, 4096, 4097, 10_000, 70_000, 300_000].choose(random).unwrap();
    if random.random_bool(0.02) { 3 << 20 } else { random.random_range(0..=near) }
}

fn handle(random: &mut StdRng) -> usize {
    random.random_range(0..HANDLES)
}

impl Operation {
    pub(crate) fn random(random: &mut StdRng) -> Self {
        match random.random_range(0..100) {
            0..50 => Self::random_of_bytes(random),
            50..90 => Self::random_of_names(random),
            _ => Self::random_of_attributes(random),
        }
    }

    fn random_of_bytes(random: &mut StdRng) -> Self {
        let handle = handle(random);
        match random.random_range(0..50) {
            0..7 => Self::Create {
                path: path(random),
                exclusive: random.random_bool(0.2),
                truncate: random.random_bool(0.2),
                append: random.random_bool(0.25),
                mode: *[0o644, 0o600, 0o755].choose(random).unwrap(),
            },
            7..9 => Self::OpenToRead { path: path(random) },
            9..11 => Self::Close { handle },
            11..20 => Self::Write { handle, offset: position(random), len: len(random), seed: random.random() },
            20..24 => Self::WriteOn { handle, len: len(random), seed: random.random() },
            24..32 => Self::Read { handle, offset: position(random), len: len(random) },
            32..35 => Self::TruncateHandle { handle, len: position(random) },
            35..37 => Self::Truncate { path: path(random), len: position(random) },
            37..42 => {
                use Allocation::{Extend, KeepSize, Punch, Zero, ZeroKeepSize};
                let kind = *[Extend, KeepSize, Punch, Punch, Zero, ZeroKeepSize].choose(random).unwrap();
                Self::Allocate { handle, offset: position(random), len: position(random), kind }
            }
            42..44 => Self::CopyRange {
                from: handle,
                from_offset: position(random),
                to: random.random_range(0..HANDLES),
                to_offset: position(random),
                len: position(random),
            },
            44..46 => Self::Sync { handle },
            46..48 => Self::StatHandle { handle },
            _ => Self::ReadWhole { path: path(random) },
        }
    }

    fn random_of_names(random: &mut StdRng) -> Self {
        let path = path(random);
        match random.random_range(0..40) {
            0..9 => {
                use Renaming::{Exchange, NoReplace, Replace};
                let kind = *[Replace, Replace, Replace, NoReplace, Exchange].choose(random).unwrap();
                Self::Rename { from: path, to: self::path(random), kind }
            }
            9..13 => Self::Link { from: path, to: self::path(random) },
            13..18 => Self::Unlink { path },
            18..23 => Self::MakeDirectory { path, mode: *[0o755, 0o700].choose(random).unwrap() },
            23..26 => Self::RemoveDirectory { path },
            26..28 => Self::MakeSymlink { path, target: self::path(random) },
            28..29 => Self::ReadLink { path },
            29..34 => Self::List { path },
            _ => Self::Stat { path },
        }
    }

    fn random_of_attributes(random: &mut StdRng) -> Self {
        let path = path(random);
        let name = random.random_range(0..3);
        match random.random_range(0..10) {
            0..2 => Self::SetMode { path, mode: *[0o644, 0o4755, 0o2755, 0o1777, 0o700].choose(random).unwrap() },
            2..5 => Self::SetTimes {
                path,
                seconds: random.random_range(0..900_000_000),
                nanoseconds: random.random_range(0..1_000_000_000),
            },
            5..7 => {
                use Setting::{Any, Create, Replace};
                let kind = *[Any, Any, Create, Replace].choose(random).unwrap();
                Self::SetXattr { path, name, len: random.random_range(0..200), kind }
            }
            7 => Self::Xattr { path, name },
            8 => Self::RemoveXattr { path, name },
            _ => Self::ListXattrs { path },
        }
    }
}
