//! What comes over a connection, piece by piece, without waiting forever for one that brings nothing.

use std::{
    io::{ErrorKind, Read, Result},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

/// The most bytes of a piece.
const PIECE: usize = 1 << 20;
/// How often whoever waits is asked whether to go on.
const GLANCE: Duration = Duration::from_millis(200);

/// The pieces of a body, which a thread of its own reads: a read that brings nothing cannot be ended, only left alone.
pub struct Pieces {
    pieces: Receiver<Result<Vec<u8>>>,
    stall: Duration,
}

/// What came next.
pub enum Next {
    Piece(Vec<u8>),
    End,
    /// Why it ended before its end.
    Broken(String),
}

impl Pieces {
    /// Those of a body, of which each has to come within `stall` of the last.
    pub fn of(mut body: impl Read + Send + 'static, stall: Duration) -> Self {
        let (sender, pieces) = sync_channel(2);
        thread::spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = match body.read(&mut piece) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    read => read,
                };
                let last = !matches!(read, Ok(1..));
                let sent = read.map(|count| {
                    piece.truncate(count);
                    piece
                });
                // Whoever wanted them may have had enough.
                if sender.send(sent).is_err() || last {
                    return;
                }
            }
        });
        Self { pieces, stall }
    }

    /// Waits for the next one; every now and then `go_on` says whether to.
    ///
    /// # Errors
    /// That of `go_on`.
    pub fn next<E>(&self, go_on: impl Fn() -> std::result::Result<(), E>) -> std::result::Result<Next, E> {
        let began = Instant::now();
        loop {
            match self.pieces.recv_timeout(GLANCE.min(self.stall)) {
                Ok(Ok(piece)) if piece.is_empty() => return Ok(Next::End),
                Ok(Ok(piece)) => return Ok(Next::Piece(piece)),
                Ok(Err(error)) => return Ok(Next::Broken(error.to_string())),
                Err(RecvTimeoutError::Disconnected) => return Ok(Next::Broken("the connection ended".into())),
                Err(RecvTimeoutError::Timeout) => go_on()?,
            }
            if began.elapsed() >= self.stall {
                return Ok(Next::Broken(format!("nothing came for {:.0?}", self.stall)));
            }
        }
    }
}
