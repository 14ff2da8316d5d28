package pagecache

import (
	"errors"
	"fmt"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// Recovery rebuilds the mapping table from the newest usable page-table snapshot
// and the log behind it. Fragments stay in the log: a page is loaded when it is
// asked for. Updates apply by page version, each once (P4):
//
//	allocate, replace (v)   v > version         positions = this one
//	append (v)              v = version + 1     position added
//	consolidate (v)         v >= the version of the base on disk
//	                                            positions = this one and those
//	                                            of the deltas behind v
//	free (v)                v > version         the PID is free

// A replayed is a page as replay knows it.
type replayed struct {
	free      bool
	stamp     uint64
	flags     uint8
	version   uint64
	positions []log.Position // oldest first; one per version but the first
}

// A replay collects pages.
type replay struct {
	c       *Cache
	pages   replayedPages // touched by the log
	last    PID
	clock   uint64
	updates uint64
	durable log.Marks // as the snapshots state, those that cannot be used too
	passed  []error   // why newer snapshots were not used
	unread  bool      // one of them could not be read at all, and so its durable marks
}

// recover loads the newest snapshot that can be used and replays the log.
func (c *Cache) recover() error {
	r := &replay{c: c, pages: replayedPages{chunks: make(map[PID]*replayedChunk)}}
	h, found, err := r.loadSnapshot()
	if err != nil {
		return err
	}
	var start log.Marks
	if found {
		start = h.ReplayStart
		paths.Hit(paths.RecoverWithSnapshot)
	}
	ends, err := c.log.Replay(start, r.apply)
	if err == nil {
		err = r.checkEnds(ends)
	}
	if err != nil {
		// What is missing may only be missed because of them.
		return errors.Join(append([]error{err}, r.passed...)...)
	}
	if !found && r.updates > 0 {
		paths.Hit(paths.RecoverWithoutSnapshot)
	}
	c.pids.next = max(r.last, r.pages.last) + 1
	r.pages.each(func(pid PID, p *replayed) {
		c.setRecovered(pid, p)
		c.written.set(pid)
	})
	c.clock.Store(max(r.clock+1, firstStamp))
	c.checkpoint.last.Store(uint64(start[log.Fresh]))
	c.metrics.replayed.Store(r.updates)
	return c.accountRecovered()
}

// checkEnds compares where the log ends with where it was once durable: a log
// that lost its newest segments reads like one that ended earlier.
func (r *replay) checkEnds(ends log.Marks) error {
	if d := r.c.log.Discounted(); d != nil && r.unread {
		// A crash leaves such a segment, but no such snapshot, which may have
		// known better.
		return d
	}
	for s := range ends {
		if ends[s] < r.durable[s] {
			at := ends[s]
			if at == 0 {
				at = r.c.log.SegmentOf(r.durable[s] - 1) // no segment of the stream is left
			}
			return r.c.log.Corrupt(log.Position{LSN: at}, fmt.Errorf("the %v stream ends here and was durable up to %v", log.Stream(s), r.durable[s]))
		}
	}
	return nil
}

func (r *replay) loadSnapshot() (snapshot.Header, bool, error) {
	c := r.c
	have := make(map[snapshot.SegmentRef]bool)
	for _, s := range c.log.Segments() {
		have[snapshot.SegmentRef{Base: s.Base, Incarnation: s.Incarnation}] = true
	}
	k := &c.checkpoint
	files, err := snapshot.List(c.options.FS, c.options.Dir)
	if err != nil {
		return snapshot.Header{}, false, err
	}
	if len(files) > 0 {
		k.sequence = files[0].Sequence // that of a damaged file is not used again
	}
	seen := false
	sink := snapshot.Sink{
		Seen: func(h snapshot.Header) {
			seen = true
			for s := range r.durable {
				r.durable[s] = max(r.durable[s], h.DurableMark[s])
			}
		},
		Passed: func(err error) {
			r.passed = append(r.passed, err)
			r.unread, seen = r.unread || !seen, false
		},
		Accept: func(h snapshot.Header, files []snapshot.File) error {
			for _, s := range h.Segments {
				if !have[s] {
					return fmt.Errorf("segment %v of incarnation %d is missing: %w", s.Base, s.Incarnation, snapshot.ErrRefused)
				}
			}
			c.forgetTable()
			k.begin(h, files)
			return nil
		},
		Slot: func(file int, s snapshot.Slot) error {
			if s.PID == 0 || s.PID >= maxPIDs {
				return fmt.Errorf("pagecache: snapshot names page %d: %w", s.PID, ErrCorrupt)
			}
			if pids := k.chain[file].pids; pids != nil {
				pids.set(s.PID)
			}
			page := replayed{free: s.State == snapshot.Free, stamp: s.Stamp, flags: s.Flags, version: s.Version, positions: s.Positions}
			c.setRecovered(s.PID, &page)
			return nil
		},
	}
	h, found, err := snapshot.Load(c.options.FS, c.options.Dir, c.log.StoreID(), c.options.Logger, sink)
	if err != nil {
		return h, found, err
	}
	if !found {
		c.forgetTable() // of a snapshot that proved unreadable half-way
		k.chain, k.history = nil, nil
		k.bytes.Store(0)
		return h, false, nil
	}
	r.last, r.clock = h.MaxPID, h.Clock
	for _, s := range h.Recovery {
		c.recovery.note(Recovery(s))
	}
	return h, true, nil
}

// begin takes a loaded snapshot for the newest.
func (k *checkpointer) begin(h snapshot.Header, files []snapshot.File) {
	facts := snapshotFacts{replayStart: h.ReplayStart, segments: make(map[LSN]struct{})}
	for _, s := range h.Segments {
		facts.segments[s.Base] = struct{}{}
	}
	k.chain = nil
	fileBytes := int64(0)
	for i, f := range files {
		file := chainFile{File: f}
		if i > 0 {
			file.pids = &pidSet{}
		}
		k.chain = append(k.chain, file)
		facts.files = append(facts.files, f.Sequence)
		fileBytes += f.Bytes
	}
	k.history = []snapshotFacts{facts}
	k.bytes.Store(fileBytes)
}

// apply replays one update.
func (r *replay) apply(u log.Update, at log.Position) error {
	if u.PID == 0 || u.PID >= maxPIDs {
		return r.c.log.Corrupt(at, fmt.Errorf("update of page %d", u.PID))
	}
	r.updates++
	r.clock = max(r.clock, u.Stamp)
	p := r.page(u.PID)
	switch u.Kind {
	case log.KindAllocate, log.KindReplace:
		if u.Version > p.version {
			p.set(u, at)
		}
	case log.KindConsolidate:
		p.consolidate(u, at)
	case log.KindAppend:
		if u.Version == p.version+1 && !p.free && len(p.positions) > 0 {
			p.version, p.stamp = u.Version, max(p.stamp, u.Stamp)
			p.positions = append(p.positions, at)
		} else if u.Version > p.version {
			return r.c.log.Corrupt(at, fmt.Errorf("page %d version %d follows version %d", u.PID, u.Version, p.version))
		}
	case log.KindFree:
		if u.Version > p.version {
			*p = replayed{free: true, version: u.Version, positions: append(p.positions[:0], at)}
		}
	default:
		return r.c.log.Corrupt(at, fmt.Errorf("update kind %d", u.Kind))
	}
	return r.noteRecovery(u, at)
}

func (p *replayed) set(u log.Update, at log.Position) {
	*p = replayed{stamp: max(p.stamp, u.Stamp), flags: p.flags, version: u.Version, positions: append(p.positions[:0], at)}
}

// consolidate applies a base that contains all updates up to u.Version.
func (p *replayed) consolidate(u log.Update, at log.Position) {
	switch onDisk := p.version + 1 - uint64(len(p.positions)); {
	case u.Version >= p.version && !(p.free && u.Version == p.version):
		p.set(u, at)
	case p.free || u.Version < onDisk:
		// A later base, or a Free, has taken its place.
	default:
		later := p.positions[len(p.positions)-int(p.version-u.Version):]
		p.positions = append([]log.Position{at}, later...)
	}
}

// noteRecovery shows bases to the materializer.
func (r *replay) noteRecovery(u log.Update, at log.Position) error {
	if u.Kind == log.KindAppend || u.Kind == log.KindFree {
		return nil
	}
	data := u.Payload
	if u.Compressed {
		var err error
		if data, err = r.c.decompress(data); err != nil {
			return r.c.log.Corrupt(at, err)
		}
	}
	if rec := r.c.recoveryOf(u.PID, data); rec != nil {
		r.c.recovery.note(*rec)
	}
	if r.c.keep(data) {
		r.page(u.PID).flags |= nodeKeep
	}
	return nil
}

// page returns what is known of a page, taking it over from the table.
func (r *replay) page(pid PID) *replayed {
	p, known := r.pages.get(pid)
	if known {
		return p
	}
	slot := r.c.table.slot(pid)
	if slot == nil || slot.Load() == 0 {
		return p
	}
	word := slot.Load()
	p.version = r.c.versionAt(word)
	if r.c.headerAt(word).kind == nodeFree {
		p.free = true
		p.positions = append(p.positions, r.c.freeAt(word).position())
		return p
	}
	b := r.c.bottomAt(word)
	p.stamp, p.flags = b.stamp, b.flags
	p.positions = b.appendPositions(nil)
	return p
}

// forgetTable empties the mapping table.
func (c *Cache) forgetTable() {
	for _, chunk := range *c.table.chunks.Load() {
		for i := range chunk {
			if word := chunk[i].Swap(0); word != 0 {
				c.dropNode(refOf(word))
			}
		}
	}
}

// setRecovered puts a page into the table, in the place of what was there.
func (c *Cache) setRecovered(pid PID, p *replayed) {
	slot := c.table.reach(pid)
	if old := slot.Load(); old != 0 {
		c.dropNode(refOf(old))
	}
	if p.free || len(p.positions) == 0 {
		at := log.Position{}
		if len(p.positions) > 0 {
			at = p.positions[0]
		}
		slot.Store(uint64(c.newFree(p.version, at)))
		return
	}
	ref, b := c.newBottom(nodeAbsent, p.version, p.stamp, len(p.positions), nil)
	b.flags = p.flags
	for i, at := range p.positions {
		b.setPosition(i, at)
	}
	slot.Store(uint64(ref))
}
