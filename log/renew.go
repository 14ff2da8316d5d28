package log

import (
	"errors"
	"os"

	"github.com/pulkdb/db/internal/testhooks"
)

// renew writes again, in place, what Replay is about to accept of a segment and
// what no mark says to be durable: the header, if nothing behind it is known to
// be, and the records up to the first that cannot be read. It reports whether
// there was any; Start syncs it.
//
// Syncing alone would not do. If the last process ended after a failed sync and
// the machine went on, the system shows what was written, counts it as clean,
// and syncs it with success and without writing it; a loss of power later would
// take what was recovered, acknowledged, and maybe built upon. What is written
// again is dirty again.
//
// Nothing that is durable is in danger: what is written is what the system
// showed, and no record is written anew but as it is; whichever of the sectors get
// there, each holds what it held or what recovery accepted. The bytes come from
// memory, not from a second look: the system may drop what it did not write at
// any time, and show the medium's older contents from then on.
func (r *replay) renew(f *foundSegment, data []byte, later []*foundSegment) (bool, error) {
	l := r.log
	mark := r.mark[f.stream]
	for _, n := range later {
		mark = max(mark, n.mark)
	}
	// A mark at the segment's first record, such as the header's own of one that
	// a log began with, says nothing of the header.
	begun := f.base + headerBytes
	if l.options.ReadOnly || f.end != 0 && f.end <= mark && begun < mark {
		return false, nil
	}
	off, seed := headerBytes, seedOf(f.incarnation)
	if from := r.from[f.stream]; f.contains(from) {
		off = max(off, int(from-f.base))
	}
	if off > len(data) {
		return false, nil // cut short before the replay start: damage
	}
	first := off
	for off < len(data) {
		h, err := decodeRecord(data[off:], f.base+LSN(off), seed)
		if err != nil {
			break
		}
		mark = max(mark, h.mark)
		off += h.size
	}
	if f.base+LSN(off) <= mark && begun < mark {
		return false, nil
	}
	begin := 0
	if begun < mark {
		// Before the replay start everything is durable.
		begin = max(int(mark-f.base), first)
	}
	file, err := l.fs.OpenFile(l.path(f.name), os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	if _, herr := decodeSegmentHeader(data); herr != nil {
		// It could be read when the log was opened, and since then the system
		// has dropped it.
		copy(data, appendSegmentHeader(nil, f.segmentHeader))
	}
	if begin < off && !testhooks.RecoverBySync.On() {
		_, err = file.WriteAt(data[begin:off], int64(begin))
	}
	return true, errors.Join(err, file.Close())
}

// A headless is a segment file whose header cannot be read.
type headless struct {
	name string
	base LSN
	err  error // why not
}

// headless decides what a file without a header is. It is damage if a record in it
// says that part of it was durable. Otherwise nothing in it ever was: it was just
// made, and has zeros for a header, or a part of it if the disk was full, or what
// its file held in an earlier life; for the header is synced before anything
// counts (L3), and no file gets a second life before it has lost its name
// (freeFiles). If another segment says that it was durable, it will be missed.
func (r *replay) headless(h headless) error {
	l := r.log
	mark, err := r.markWithoutHeader(h)
	switch {
	case err != nil:
		return err
	case mark > h.base+headerBytes:
		return &CorruptError{File: h.name, LSN: h.base, Err: h.err}
	case h.base > max(r.from[Fresh], r.from[Survivors]):
		l.leftovers = append(l.leftovers, h.name)
		if !errors.Is(h.err, errUnwritten) && l.discounted == nil {
			l.discounted = &CorruptError{File: h.name, LSN: h.base, Err: h.err}
		}
	default:
		// Perhaps somebody needs it, and will miss it. It stays for who looks
		// into it.
		l.options.Logger.Warn("log: segment without a header", "segment", h.name, "err", h.err)
	}
	return nil
}

// Discounted returns what is wrong with the header of a segment file that Replay
// took for one that was just made, in which nothing was ever durable; nil if there
// is none. That is what a crash leaves. It is damage if anything durable was in it,
// which Replay knows from the marks in other segments and in its own records; if
// the caller has lost marks that only it had, it had better not believe it.
func (l *Log) Discounted() *CorruptError { return l.discounted }

// incarnationsMax bounds how many incarnations are tried for a record whose
// segment has lost its header.
const incarnationsMax = 1 << 20

// markWithoutHeader returns the highest durable mark in the records of a segment
// without a header, which would have stated the incarnation: those of other
// segments are tried for all records, and all others for the first.
func (r *replay) markWithoutHeader(h headless) (LSN, error) {
	l := r.log
	f := &foundSegment{name: h.name, segmentHeader: segmentHeader{base: h.base, segmentBytes: l.segmentBytes}}
	data, err := r.load(f)
	if err != nil || len(data) <= headerBytes {
		return 0, err
	}
	try := map[uint64]bool{l.incarnation: true}
	for _, other := range l.found {
		try[other.incarnation] = true
	}
	for n := uint64(0); n < min(l.incarnation, incarnationsMax); n++ {
		if _, err := decodeRecord(data[headerBytes:], h.base+headerBytes, seedOf(l.incarnation-n)); err == nil {
			try[l.incarnation-n] = true
		}
	}
	mark := LSN(0)
	for incarnation := range try {
		mark = max(mark, marksIn(data, headerBytes, h.base, seedOf(incarnation), h.base+headerBytes))
	}
	return mark, nil
}
