//! Our own UDP socket under quinn: segment cap, socket buffers; and the seam for its simulated twin.
//!
//! # Invariants
//! - No more segments are handed to the kernel in one call than 64 KiB hold. quinn takes ten of whatever size; ten of
//!   8,900 bytes are refused by the kernel, lost without a word, and taken by quinn for congestion.

use std::{
    fmt::{self, Debug},
    io::{self, IoSliceMut},
    net::{Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use socket2::{Domain, Protocol, Type};
use tokio::io::Interest;
use tracing::warn;

/// Smallest UDP payload that QUIC works with (RFC 9000, section 14).
pub const PAYLOAD_LEN_MIN: u16 = 1200;

/// Largest UDP payload used: jumbo frames of 9,000 bytes less the headers of IPv6 and UDP, rounded down.
pub const PAYLOAD_LEN_MAX: u16 = 8900;

/// Largest UDP payload of IPv4, and so of what one call to the kernel may send in segments.
const SEGMENTS_LEN_MAX: usize = 65_507;

/// Errors of receiving in one turn before the task lets others run.
const RECEIVE_ERRORS_PER_TURN: u32 = 32;

/// Errors of receiving without a datagram between them that are not those of datagrams any more: the socket is broken.
const RECEIVE_ERRORS_MAX: u32 = 100_000;

/// Sends and receives datagrams. The real one is made by [`bind_udp`]; the simulated one lives in the tests.
pub trait DatagramSocket: Debug + Send + Sync + 'static {
    /// Sends one datagram, or says [`io::ErrorKind::WouldBlock`].
    fn try_send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()>;

    /// After a [`io::ErrorKind::WouldBlock`]: whether it is worth trying again; wakes *every* task that was told to
    /// wait. A socket that drops what it cannot send keeps this default.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Receives one datagram into `buffer`, or wakes the task when it is worth trying again.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>>;

    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Largest datagram that it carries, [`PAYLOAD_LEN_MIN`] to [`PAYLOAD_LEN_MAX`].
    fn payload_len_max(&self) -> u16 {
        1452
    }
}

/// How the real socket is set up.
#[derive(Clone, Debug)]
pub struct UdpSocketConfig {
    /// Receive and send buffer in bytes; 4 MiB by default: the kernel's 208 KiB cost 30 % more CPU a GiB.
    pub buffer_len: usize,
    /// Largest UDP payload in bytes, 1,200 to 8,900; 8,900 by default, found by path MTU discovery.
    pub payload_len_max: u16,
}

impl Default for UdpSocketConfig {
    fn default() -> Self {
        Self { buffer_len: 4 << 20, payload_len_max: PAYLOAD_LEN_MAX }
    }
}

/// Which socket an endpoint stands on.
#[derive(Clone, Debug)]
pub enum Socket {
    /// A real one, bound by [`bind_udp`].
    Udp(Arc<std::net::UdpSocket>, UdpSocketConfig),
    /// A twin.
    Twin(Arc<dyn DatagramSocket>),
}

/// Binds a UDP socket with large buffers.
pub fn bind_udp(listen: SocketAddr, config: UdpSocketConfig) -> io::Result<Socket> {
    let socket = socket2::Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    // The kernel grants what `rmem_max` and `wmem_max` allow and says nothing.
    socket.set_recv_buffer_size(config.buffer_len)?;
    socket.set_send_buffer_size(config.buffer_len)?;
    let granted = socket.recv_buffer_size()?.min(socket.send_buffer_size()?);
    if granted < config.buffer_len {
        let wanted = config.buffer_len;
        warn!(granted, wanted, "small UDP buffers cost CPU; raise net.core.rmem_max and net.core.wmem_max");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(Socket::Udp(Arc::new(socket.into()), config))
}

impl Socket {
    /// Largest datagram to send and to expect, within what QUIC and this module allow.
    pub(super) fn payload_len_max(&self) -> u16 {
        let len = match self {
            Self::Udp(_, config) => config.payload_len_max,
            Self::Twin(twin) => twin.payload_len_max(),
        };
        len.clamp(PAYLOAD_LEN_MIN, PAYLOAD_LEN_MAX)
    }

    /// As quinn wants it.
    pub(super) fn into_quinn(self) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let payload_len_max = self.payload_len_max();
        match self {
            Self::Udp(socket, _) => Ok(Arc::new(KernelSocket::new(socket.try_clone()?, payload_len_max)?)),
            Self::Twin(twin) => Ok(Arc::new(TwinSocket(twin))),
        }
    }
}

/// quinn's own socket but for the number of segments.
#[derive(Debug)]
struct KernelSocket {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    send_segments_max: usize,
    receive_segments_max: usize,
    /// Errors since the last datagram.
    receive_errors: AtomicU32,
}

impl KernelSocket {
    fn new(socket: std::net::UdpSocket, payload_len_max: u16) -> io::Result<Self> {
        let payload_len_max = usize::from(payload_len_max);
        let state = UdpSocketState::new((&socket).into())?;
        let send_segments_max = (SEGMENTS_LEN_MAX / payload_len_max).max(1);
        // quinn sets aside this many payloads for each of 32 receptions. The kernel joins at most 64 KiB of segments,
        // so more would never be filled.
        let receive_segments_max = state.gro_segments().min((64 << 10) / payload_len_max + 1);
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self { socket, state, send_segments_max, receive_segments_max, receive_errors: AtomicU32::new(0) })
    }
}

impl AsyncUdpSocket for KernelSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritablePoller { socket: self, writable: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || self.state.send((&self.socket).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut errors = 0;
        while errors < RECEIVE_ERRORS_PER_TURN {
            ready!(self.socket.poll_recv_ready(cx))?;
            let received =
                self.socket.try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), buffers, meta));
            match received {
                Ok(count) => {
                    self.receive_errors.store(0, Ordering::Relaxed);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An error is that of an earlier datagram (its receiver was gone): the next one may be good.
                Err(error) => {
                    errors += 1;
                    if self.receive_errors.fetch_add(1, Ordering::Relaxed) >= RECEIVE_ERRORS_MAX {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        // Asked each time: it falls to one for good when the kernel refuses segments.
        self.send_segments_max.min(self.state.max_gso_segments())
    }

    fn max_receive_segments(&self) -> usize {
        self.receive_segments_max
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits for room in the kernel's buffer; one for each task that sends.
struct WritablePoller {
    socket: Arc<KernelSocket>,
    writable: Option<Writable>,
}

impl UdpPoller for WritablePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let writable = self.writable.get_or_insert_with(|| Box::pin(async move { socket.socket.writable().await }));
        let outcome = ready!(writable.as_mut().poll(cx));
        self.writable = None;
        Poll::Ready(outcome)
    }
}

impl Debug for WritablePoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritablePoller").finish_non_exhaustive()
    }
}

/// A [`DatagramSocket`] as quinn wants it.
#[derive(Debug)]
struct TwinSocket(Arc<dyn DatagramSocket>);

impl AsyncUdpSocket for TwinSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(TwinPoller(self.0.clone()))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit.destination, transmit.contents)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut()) else { return Poll::Ready(Ok(0)) };
        let (len, addr) = ready!(self.0.poll_recv(cx, buffer))?;
        *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct TwinPoller(Arc<dyn DatagramSocket>);

impl UdpPoller for TwinPoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_writable(cx)
    }
}
