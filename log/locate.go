package log

// SegmentOf returns the LSN at which the segment of lsn begins.
func (l *Log) SegmentOf(lsn LSN) LSN { return LSN(l.number(lsn) * l.segmentBytes) }

// Corrupt returns the *CorruptError for an update at p whose bytes are as they
// were written but which is not what belongs there: for callers that know more
// than the log does.
func (l *Log) Corrupt(p Position, err error) error {
	base := l.SegmentOf(p.LSN)
	return &CorruptError{File: segmentName(base), Offset: int64(p.LSN - base), LSN: p.LSN, Err: err}
}

// StreamOf returns the stream of the segment that lsn is in; Fresh for one that
// is gone.
func (l *Log) StreamOf(lsn LSN) Stream {
	if s := l.segmentAt(lsn); s != nil {
		return s.stream
	}
	return Fresh
}

// Completed reports whether the update at p is complete: it can be read at once,
// and its buffer will be written whatever happens to the page it belongs to.
func (l *Log) Completed(p Position) bool {
	s := l.segmentAt(p.LSN)
	return s == nil || s.recovered || p.LSN+LSN(p.Size) <= l.CompletedPrefix(s.stream)
}

// ScanSegment calls fn with every update in the segment that begins at base,
// those of aborted records and unfinished groups too: the caller knows which
// count. The segment is closed (its SegmentInfo has an End) and all written.
// Payload is valid during the call. Errors: ErrGone, a *CorruptError, fn's.
func (l *Log) ScanSegment(base LSN, fn func(Update, Position) error) error {
	s := l.segmentAt(base)
	if s == nil || s.base != base {
		return ErrGone
	}
	if err := l.resolveEnd(s); err != nil {
		return err
	}
	end := LSN(s.end.Load())
	if end == 0 || !s.recovered && LSN(s.written.Load()) < end {
		return ErrState
	}
	window := make([]byte, min(int(l.segmentBytes), l.bufferBytes+scanWindowBytes))
	for lsn := base + headerBytes; lsn < end; {
		n := int(min(LSN(len(window)), end-lsn))
		if err := l.readFile(s, window[:n], l.offset(s, lsn)); err != nil {
			if s.gone.Load() {
				err = ErrGone
			}
			return err
		}
		used, err := scanRecords(window[:n], lsn, s, lsn+LSN(n) == end, fn)
		if err != nil {
			return err
		}
		if used == 0 { // of an opener with larger buffers
			window = make([]byte, min(int(l.segmentBytes), 2*len(window)))
		}
		lsn += LSN(used)
	}
	return nil
}

// scanWindowBytes is how much a scan reads at a time beside one whole record of this opener's.
const scanWindowBytes = 256 << 10

// scanRecords delivers the records that are whole in p and returns their bytes.
func scanRecords(p []byte, lsn LSN, s *segment, last bool, fn func(Update, Position) error) (int, error) {
	off := 0
	for off < len(p) {
		at := lsn + LSN(off)
		h, err := decodeRecord(p[off:], at, s.seed)
		if err != nil {
			if !last {
				return off, nil // begins in this window and ends in the next
			}
			return 0, &CorruptError{File: segmentName(s.base), Offset: int64(at - s.base), LSN: at, Err: err}
		}
		if h.kind != recordMark && h.kind != recordAborted {
			body := off + h.headerBytes()
			for !atEnd(p[body : off+h.size]) {
				u, n, err := decodeUpdate(p[body : off+h.size])
				if err != nil {
					return 0, &CorruptError{File: segmentName(s.base), Offset: int64(lsn-s.base) + int64(body), LSN: lsn + LSN(body), Err: err}
				}
				if err := fn(u, Position{LSN: lsn + LSN(body), Size: uint32(n)}); err != nil {
					return 0, err
				}
				body += n
			}
		}
		off += h.size
	}
	return off, nil
}

// SegmentBytes is the size of a segment.
func (l *Log) SegmentBytes() int { return int(l.segmentBytes) }

// DurableMarks returns, per stream, an LSN that Replay must reach, after
// whatever crash: the end of what is durable. If the newest segment holds nothing
// yet, its file may not exist, and the mark is the end of the one before.
func (l *Log) DurableMarks() Marks {
	var marks Marks
	for s := range marks {
		marks[s] = l.Durable(Stream(s))
		base := l.SegmentOf(marks[s])
		if marks[s] > base+headerBytes {
			continue
		}
		marks[s] = 0
		for _, g := range l.table.all() {
			if g.stream == Stream(s) && g.base < base {
				marks[s] = max(marks[s], LSN(g.end.Load()))
			}
		}
	}
	return marks
}
