//! Physical memory, mapped whole, and the pieces it is tiled by.

/// Physical memory, mapped whole and never split. Sizes in bytes. What a claim looks at is in one
/// cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Handle {
    /// What tiles it where that is one piece, as nearly always.
    whole: Piece,
    /// What tiles it in order, where that is more than one piece.
    cut: Vec<Piece>,
    pub(crate) bytes: u64,
    /// The streams whose work may still use what is idle of it.
    pub(crate) idle_of: Vec<u32>,
    /// When that became idle.
    pub(super) idle_at: u64,
    /// Its first view, which stays.
    pub(crate) home: u64,
    /// All its views.
    pub(crate) views: Vec<u64>,
    /// The arena it was made for.
    pub(crate) arena: u32,
    /// The driver would not take it back: nothing is served from it. See [`Pages::keep`].
    ///
    /// [`Pages::keep`]: super::Pages::keep
    pub(crate) is_kept: bool,
}

/// Bytes of a handle with one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The view that owns them; none where they are idle.
    pub(super) owner: Option<u64>,
}

impl Handle {
    /// Idle, with no view yet.
    pub(super) fn new(bytes: u64, arena: u32, home: u64) -> Self {
        Self {
            bytes,
            arena,
            home,
            views: Vec::new(),
            whole: Piece { start: 0, end: bytes, owner: None },
            cut: Vec::new(),
            idle_of: Vec::new(),
            idle_at: 0,
            is_kept: false,
        }
    }

    /// What tiles it, in order.
    #[inline]
    pub(super) fn pieces(&self) -> &[Piece] {
        if self.cut.is_empty() { std::slice::from_ref(&self.whole) } else { &self.cut }
    }

    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.cut.is_empty() && self.whole.owner.is_none()
    }

    /// The view that owns all of it.
    pub(crate) fn sole_owner(&self) -> Option<u64> {
        if self.cut.is_empty() { self.whole.owner } else { None }
    }

    pub(crate) fn owns_any(&self, view: u64) -> bool {
        self.pieces().iter().any(|piece| piece.owner == Some(view))
    }

    #[cfg(test)]
    pub(in super::super) fn owns_within(&self, view: u64, from: u64, to: u64) -> bool {
        let within = |piece: &&Piece| piece.start < to && from < piece.end;
        self.pieces().iter().filter(within).any(|piece| piece.owner == Some(view))
    }

    pub(crate) fn idle_parts(&self) -> Vec<(u64, u64)> {
        let idle = self.pieces().iter().filter(|piece| piece.owner.is_none());
        idle.map(|piece| (piece.start, piece.end)).collect()
    }

    /// Makes it one piece.
    #[inline]
    pub(super) fn set_owner(&mut self, owner: Option<u64>) {
        self.cut.clear();
        self.whole.owner = owner;
    }

    /// Lays a piece over what tiles it.
    #[inline]
    pub(super) fn lay(&mut self, over: Piece) {
        if over.end - over.start == self.bytes {
            self.set_owner(over.owner);
        } else {
            self.lay_part(over);
        }
    }

    fn lay_part(&mut self, over: Piece) {
        let mut tiles: Vec<Piece> = Vec::with_capacity(self.pieces().len() + 2);
        let mut add = |piece: Piece| match tiles.last_mut() {
            _ if piece.start >= piece.end => {}
            Some(last) if last.owner == piece.owner => last.end = piece.end,
            _ => tiles.push(piece),
        };
        let under = self.pieces();
        for &piece in under {
            add(Piece { end: piece.end.min(over.start), ..piece });
        }
        add(over);
        for &piece in under {
            add(Piece { start: piece.start.max(over.end), ..piece });
        }
        match tiles[..] {
            [Piece { owner, .. }] => self.set_owner(owner),
            _ => self.cut = tiles,
        }
    }
}
