//! The simulated twin of the UDP socket.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use wire::quic::{DatagramSocket, Socket};

use super::Trace;

/// A UDP socket in turmoil's network.
pub(super) struct SimSocket {
    socket: Arc<turmoil::net::UdpSocket>,
    /// What wakes the reader. Guards itself alone.
    readable: Mutex<Option<BoxFuture<'static, io::Result<()>>>>,
    local: SocketAddr,
    trace: Trace,
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket").finish_non_exhaustive()
    }
}

/// Binds `port` on the simulated host that this runs on, `host`.
pub(super) async fn bind(host: &str, port: u16, trace: &Trace) -> io::Result<Socket> {
    let socket = Arc::new(turmoil::net::UdpSocket::bind(("0.0.0.0", port)).await?);
    let local = SocketAddr::new(turmoil::lookup(host), port);
    Ok(Socket::Twin(Arc::new(SimSocket { socket, readable: Mutex::new(None), local, trace: trace.clone() })))
}

impl DatagramSocket for SimSocket {
    fn try_send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.trace.datagram(self.local, to, datagram.len());
        self.socket.try_send_to(datagram, to).map(drop)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            match self.socket.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
            let mut readable = self.readable.lock().unwrap();
            let wait = readable.get_or_insert_with(|| {
                let socket = self.socket.clone();
                Box::pin(async move { socket.readable().await })
            });
            match wait.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => *readable = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}
