//! The runtime under the Raft library: tokio, with chance taken out.
//!
//! # Invariants
//! - Random numbers (election timeouts, first ticks) come from the seed of the scope in which the library was started.
//! - Tasks that wait for a [`Watch`](FairWatch) are woken in the order in which they began to wait. Tokio's own spreads
//!   them over eight lists by chance, so that two runs of one seed differ.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::OptionalSync;
use openraft::impls::TokioRuntime;
use openraft_rt::AsyncRuntime;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// Tokio with seeded chance.
type Seeded = DeterministicRng<TokioRuntime>;

/// The runtime. A type only: tasks run on the tokio runtime around them.
#[derive(Debug)]
pub(super) struct Runtime(Seeded);

impl Runtime {
    /// Runs `future`, and all tasks that the library spawns from it, with chance from `seed`.
    pub(super) async fn scope<F: Future>(seed: u64, future: F) -> F::Output {
        Seeded::scope(seed, future).await
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <Seeded as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Seeded as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Seeded as AsyncRuntime>::Sleep;
    type Instant = <Seeded as AsyncRuntime>::Instant;
    type TimeoutError = <Seeded as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Seeded as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Seeded as AsyncRuntime>::Mpsc;
    type Watch = FairWatch;
    type Oneshot = <Seeded as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Seeded as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Seeded::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Seeded::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Seeded::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Seeded::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Seeded::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Seeded::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Seeded::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(Seeded::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

/// Channels that hold the last value and wake their receivers in order.
#[derive(Debug)]
pub(super) struct FairWatch;

/// What senders and receivers share.
struct Channel<T> {
    /// The value and how often it was set. Held only for the length of one call, or by the library's short borrows.
    value: RwLock<(u64, T)>,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

/// Sets the value.
pub(super) struct FairSender<T>(Arc<Channel<T>>);

/// Sees the value.
pub(super) struct FairReceiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

impl Watch for FairWatch {
    type Sender<T: OptionalSend + OptionalSync> = FairSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = FairReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = MappedRwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (FairSender<T>, FairReceiver<T>) {
        let channel = Arc::new(Channel {
            value: RwLock::new((0, init)),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
        });
        (FairSender(Arc::clone(&channel)), FairReceiver { channel, seen: 0 })
    }
}

impl<T> Clone for FairSender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for FairSender<T> {
    fn drop(&mut self) {
        // The last one's word, seen by the receivers that it wakes.
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Clone for FairReceiver<T> {
    fn clone(&self) -> Self {
        self.channel.receivers.fetch_add(1, Ordering::Relaxed);
        Self { channel: Arc::clone(&self.channel), seen: self.seen }
    }
}

impl<T> Drop for FairReceiver<T> {
    fn drop(&mut self) {
        self.channel.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<FairWatch, T> for FairSender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        {
            let mut value = self.0.value.write();
            if !modify(&mut value.1) {
                return false;
            }
            value.0 += 1;
        }
        self.0.changed.notify_waiters();
        true
    }

    fn borrow_watched(&self) -> MappedRwLockReadGuard<'_, T> {
        RwLockReadGuard::map(self.0.value.read(), |value| &value.1)
    }

    fn subscribe(&self) -> FairReceiver<T> {
        self.0.receivers.fetch_add(1, Ordering::Relaxed);
        FairReceiver { channel: Arc::clone(&self.0), seen: self.0.value.read().0 }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<FairWatch, T> for FairReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let mut changed = std::pin::pin!(self.channel.changed.notified());
            // In line before looking, or a change between the look and the wait would be missed.
            changed.as_mut().enable();
            let version = self.channel.value.read().0;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.channel.senders.load(Ordering::Acquire) == 0 {
                return Err(RecvError(()));
            }
            changed.await;
        }
    }

    fn borrow_watched(&self) -> MappedRwLockReadGuard<'_, T> {
        RwLockReadGuard::map(self.channel.value.read(), |value| &value.1)
    }

    fn borrow_and_update(&mut self) -> MappedRwLockReadGuard<'_, T> {
        let value = self.channel.value.read();
        self.seen = value.0;
        RwLockReadGuard::map(value, |value| &value.1)
    }
}

impl<T> fmt::Debug for FairSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for FairReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairReceiver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::AsyncRuntime as _;
    use openraft_rt::testing::Suite;

    use super::Runtime;

    #[test]
    fn the_runtime_keeps_what_the_library_demands_of_one() {
        Suite::<Runtime>::test_all_on(&mut Runtime::new(1));
    }
}
