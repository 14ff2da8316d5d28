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
