//! Claims about the chunk store, on a disk that loses, tears, refuses and rots.

mod claims;
mod digest;
mod full;
mod golden;
mod histories;
mod model;
mod quarantine;
mod rig;
mod rot;
