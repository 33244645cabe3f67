//! Where a node stands, as it knows it itself, and what the map should say of it.

use std::net::SocketAddr;

use ring::{Weight, Zone};
use wire::cluster::NodeRow;

/// Where a node stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Site {
    /// Where others reach it.
    pub advertise: SocketAddr,
    /// Its failure domain.
    pub zone: Option<Zone>,
    /// Its share of the chunks.
    pub weight: WeightSource,
}

/// How a node knows its weight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WeightSource {
    /// Somebody said so.
    Told(Weight),
    /// It is the size of its file system, of which some say something else every day: nothing moves for less than a tenth.
    Measured(Weight),
}

impl WeightSource {
    /// The weight itself.
    pub fn weight(self) -> Weight {
        match self {
            Self::Told(weight) | Self::Measured(weight) => weight,
        }
    }

    /// What should count where `known` does.
    fn beside(self, known: Weight) -> Weight {
        match self {
            Self::Measured(weight) if weight.0.get().abs_diff(known.0.get()) <= known.0.get() / 10 => known,
            Self::Told(weight) | Self::Measured(weight) => weight,
        }
    }
}

impl Site {
    /// Where the map says that a node stands.
    pub fn of(row: &NodeRow) -> Self {
        Self { advertise: row.address, zone: row.zone.clone(), weight: WeightSource::Told(row.weight) }
    }

    /// Whether the map says another address.
    pub fn has_moved(&self, row: &NodeRow) -> bool {
        row.address != self.advertise
    }

    /// The weight that the map should say, if it is that, or the zone, that it says wrongly.
    pub fn other_weight(&self, row: &NodeRow) -> Option<Weight> {
        let weight = self.weight.beside(row.weight);
        (row.zone != self.zone || row.weight != weight).then_some(weight)
    }
}

#[cfg(test)]
mod tests {
    use ring::{NodeId, Weight};
    use wire::cluster::{KeyFingerprint, NodeRow};

    use super::{Site, WeightSource};

    fn weight(weight: u32) -> Weight {
        Weight(weight.try_into().unwrap())
    }

    #[test]
    fn a_weight_that_was_told_counts_to_the_last_and_one_that_was_measured_by_the_tenth() {
        let zone = |name: &str| Some(name.to_owned().try_into().unwrap());
        let address = ([10, 0, 0, 1], 7000).into();
        let (id, key) = (NodeId::from_bytes([1; 16]), KeyFingerprint([1; 32]));
        let row = NodeRow { id, address, zone: zone("a"), weight: weight(100), key };
        let other = |zone, weight| Site { advertise: address, zone, weight }.other_weight(&row);
        assert_eq!(other(zone("a"), WeightSource::Told(weight(100))), None);
        assert_eq!(other(zone("a"), WeightSource::Told(weight(101))), Some(weight(101)));
        assert_eq!(other(zone("a"), WeightSource::Measured(weight(110))), None);
        assert_eq!(other(zone("a"), WeightSource::Measured(weight(90))), None);
        assert_eq!(other(zone("a"), WeightSource::Measured(weight(111))), Some(weight(111)));
        assert_eq!(other(zone("b"), WeightSource::Measured(weight(105))), Some(weight(100)), "the zone alone");
        assert_eq!(other(None, WeightSource::Told(weight(100))), Some(weight(100)));
    }
}
