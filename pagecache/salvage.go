package pagecache

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// A Salvager has the pages of a store that may be damaged anywhere, as far as the
// log can be read, and changes nothing. For each page it takes the newest base that
// there is and all later deltas. It is for one goroutine.
//
// What counts, and when a page counts as incomplete:
//
//   - What lies behind the torn end of a stream does not count: the first place that
//     cannot be read and is above all durable marks, as in a recovery; nor does a
//     segment without a header that nothing says to have been durable.
//   - Updates that an earlier recovery cut off do not count. They are those behind
//     the end of their segment, which the next one's header states; and if that is
//     lost, those that nothing says to have been durable: neither a mark of their
//     incarnation, nor the page-table snapshot, which names them; and those of an
//     incarnation after which a later one wrote the same version of the page, or an
//     older one, anew. Without any page-table snapshot the last is all that is known.
//   - Updates of a group whose last part was not found, or is not known because their
//     own record is damaged, do not count, unless the same incarnation wrote a later
//     version of their page, and not the same one outside such a group, or a page-table
//     snapshot names them.
//   - A page is incomplete if a version between its base and its newest update is not
//     there, or if a page-table snapshot has a newer version than was found.
//   - A page is free if its newest update, or a page-table snapshot with the same or
//     a newer version, says so.
type Salvager struct {
	log    *log.Salvager
	codec  codec
	pages  map[PID]*salvagedPage
	slots  map[PID]slotFact
	buffer []byte

	durable func(log.LSN) bool // while the log is scanned: log.Durable

	damage []log.Damage
	proven log.Marks // what was in the log before, the slots tell
}

// A slotFact is what a page-table snapshot says of a page.
type slotFact struct {
	version uint64
	free    bool
}

// A salvagedPage has the updates of a page; sorted by version and settled once all
// are known.
type salvagedPage struct {
	updates []salvagedUpdate
}

type salvagedUpdate struct {
	version     uint64
	stamp       uint64
	at          log.Position
	incarnation uint64
	last        log.LSN // of its group
	kind        log.Kind
	partial     bool
	listed      bool // the page-table snapshot names it
}

func (u *salvagedUpdate) isBase() bool {
	return u.kind == log.KindAllocate || u.kind == log.KindReplace || u.kind == log.KindConsolidate
}

// OpenSalvager reads the log in dir from end to end, and the newest page-table
// snapshot that is readable. It takes some 64 bytes for each update that was found
// and that is not older than the newest bases of its page that are surely durable. Errors: as of
// log.OpenSalvager. It must be closed.
func OpenSalvager(fsys vfs.FS, dir string) (_ *Salvager, err error) {
	if fsys == nil {
		fsys = vfs.OS
	}
	s := &Salvager{pages: map[PID]*salvagedPage{}, slots: map[PID]slotFact{}}
	if s.log, err = log.OpenSalvager(fsys, dir); err != nil {
		return nil, err
	}
	s.durable = s.log.Durable
	defer func() {
		if err != nil {
			err = errors.Join(err, s.log.Close())
		}
	}()
	if s.codec, err = newCodec(NotCompressed); err != nil {
		return nil, err
	}
	if err := s.log.Scan(s.add); err != nil {
		return nil, err
	}
	if err := s.loadSlots(fsys, dir); err != nil {
		return nil, err
	}
	for pid, p := range s.pages {
		p.updates = slices.DeleteFunc(p.updates, func(u salvagedUpdate) bool {
			return !s.log.Counts(u.at.LSN) || !u.listed && s.log.Doubtful(u.at.LSN)
		})
		for i := range p.updates {
			// A group that goes on behind the torn end of its stream has none.
			u := &p.updates[i]
			u.partial = !u.listed && (u.partial || u.last != 0 && (!s.log.Counts(u.last) || s.log.Doubtful(u.last)))
		}
		p.settle()
		if len(p.updates) == 0 {
			delete(s.pages, pid)
		}
	}
	return s, nil
}

// Close gives up the store's lock.
func (s *Salvager) Close() error { return s.log.Close() }

// pruneUpdates is how many updates of a page are kept before those are dropped
// that cannot matter.
const pruneUpdates = 32

func (s *Salvager) add(u log.Salvaged) error {
	if u.PID == 0 || u.PID >= maxPIDs {
		return nil
	}
	p := s.pages[u.PID]
	if p == nil {
		p = &salvagedPage{}
		s.pages[u.PID] = p
	}
	p.updates = append(p.updates, salvagedUpdate{u.Version, u.Stamp, u.Position, u.Incarnation, u.Last, u.Kind, u.Partial, false})
	if n := len(p.updates); n >= pruneUpdates && n%pruneUpdates == 0 {
		p.prune(s.durable)
	}
	return nil
}

func (p *salvagedPage) sort() {
	slices.SortFunc(p.updates, func(a, b salvagedUpdate) int {
		return cmp.Or(cmp.Compare(a.version, b.version), cmp.Compare(a.incarnation, b.incarnation), cmp.Compare(a.at.LSN, b.at.LSN))
	})
}

// pruneBases is how many durable bases are kept: the newest may prove not to count.
const pruneBases = 4

// prune drops what is older than the newest few bases that are durable: of others,
// any number may prove to lie behind the torn end of the log.
func (p *salvagedPage) prune(durable func(log.LSN) bool) {
	p.sort()
	bases := 0
	for i := len(p.updates) - 1; i > 0; i-- {
		if u := &p.updates[i]; u.isBase() && !u.partial && durable(u.at.LSN) {
			if bases++; bases == pruneBases {
				p.updates = slices.Clone(p.updates[i:])
				return
			}
		}
	}
}

// settle drops the updates that do not count.
func (p *salvagedPage) settle() {
	p.sort()
	// The newest incarnation that wrote a version up to each: the same version again
	// means that what was there before had been cut off.
	kept, newest := p.updates[:0], uint64(0)
	for i := 0; i < len(p.updates); {
		end := i
		for ; end < len(p.updates) && p.updates[end].version == p.updates[i].version; end++ {
			if u := &p.updates[end]; u.kind != log.KindConsolidate {
				newest = max(newest, u.incarnation)
			}
		}
		// A group that was given up wrote versions that others wrote after it.
		written := slices.ContainsFunc(p.updates[i:end], func(u salvagedUpdate) bool {
			return u.incarnation >= newest && !u.partial && u.kind != log.KindConsolidate
		})
		for ; i < end; i++ {
			if u := &p.updates[i]; u.incarnation >= newest && !(written && u.partial) {
				kept = append(kept, *u)
			}
		}
	}
	// A part of a group counts if its incarnation went on from it.
	wentOn := map[uint64]bool{}
	for i := len(kept) - 1; i >= 0; i-- {
		if u := &kept[i]; !u.partial {
			wentOn[u.incarnation] = true
		} else if !wentOn[u.incarnation] {
			kept = slices.Delete(kept, i, i+1)
		}
	}
	p.updates = kept
}

// loadSlots takes in what the newest usable page-table snapshot says, and decides
// what of the damage it does not cover.
func (s *Salvager) loadSlots(fsys vfs.FS, dir string) error {
	var durable log.Marks
	sink := snapshot.Sink{
		Seen: func(h snapshot.Header) {
			for i := range durable {
				durable[i] = max(durable[i], h.DurableMark[i])
			}
		},
		Passed: func(err error) {
			d := log.Damage{CorruptError: log.CorruptError{Err: err}, Streams: 2}
			var corrupt *log.CorruptError
			if errors.As(err, &corrupt) {
				d.CorruptError = *corrupt
			}
			s.damage = append(s.damage, d)
		},
		Accept: func(snapshot.Header, []snapshot.File) error { s.forgetSlots(); return nil },
	}
	var mu sync.Mutex
	sink.Slot = func(_ int, slot snapshot.Slot) error {
		mu.Lock()
		defer mu.Unlock()
		s.slots[slot.PID] = slotFact{slot.Version, slot.State == snapshot.Free}
		if p := s.pages[slot.PID]; p != nil {
			p.list(slot.Positions)
		}
		return nil
	}
	h, found, err := snapshot.Load(fsys, dir, s.log.StoreID(), nil, sink)
	if err != nil {
		return fmt.Errorf("pagecache: salvage: %w", err)
	}
	s.judge(h, found, durable)
	return nil
}

func (s *Salvager) forgetSlots() {
	clear(s.slots)
	for _, p := range s.pages {
		p.list(nil)
	}
}

// list notes which updates the page-table snapshot names.
func (p *salvagedPage) list(positions []log.Position) {
	for i := range p.updates {
		p.updates[i].listed = slices.Contains(positions, p.updates[i].at)
	}
}

// judge finds out what is missing as a whole.
func (s *Salvager) judge(h snapshot.Header, found bool, durable log.Marks) {
	var needed map[LSN]bool
	if found {
		needed = make(map[LSN]bool)
	}
	for _, ref := range h.Segments {
		needed[ref.Base] = true
	}
	if found {
		s.proven = h.ReplayStart
	} else {
		s.forgetSlots()
	}
	s.log.CutTorn(durable, s.proven, needed)
	s.damage = append(s.log.Damage(), s.damage...)
	for _, d := range s.log.Missing(needed, s.proven) {
		if !found {
			d.Err = fmt.Errorf("%w, or was reused: no page-table snapshot tells", d.Err)
		}
		s.damage = append(s.damage, d)
	}
	ends, marks := s.log.Ends()
	for i := range ends {
		if mark := max(durable[i], marks[i]); ends[i] < mark {
			s.damage = append(s.damage, log.Damage{CorruptError: log.CorruptError{LSN: ends[i],
				Err: fmt.Errorf("the %v stream ends here and was durable up to %v", log.Stream(i), mark)}, End: mark, Stream: log.Stream(i), Streams: 1})
		}
	}
}

// Damage returns all that is wrong with the files.
func (s *Salvager) Damage() []log.Damage { return s.damage }

// Unproven returns the damage to parts of the log that no page-table snapshot
// covers: which pages it has cost updates is not known, unless these show by their
// versions.
func (s *Salvager) Unproven() (unproven []log.Damage) {
	for _, d := range s.damage {
		proven := s.proven[d.Stream]
		if d.Streams > 1 {
			proven = min(s.proven[0], s.proven[1])
		}
		if d.End > proven {
			unproven = append(unproven, d)
		}
	}
	return unproven
}

// Pages returns the PIDs of the pages of which something was found, and of those
// that a page-table snapshot says to be in use, ascending.
func (s *Salvager) Pages() iter.Seq[PID] {
	pids := slices.Collect(maps.Keys(s.pages))
	for pid, slot := range s.slots {
		if s.pages[pid] == nil && !slot.free {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return slices.Values(pids)
}

// A SalvagedPage says what is left of a page.
type SalvagedPage struct {
	PID      PID
	Free     bool    // it is not in use
	Base     bool    // there is a base
	Complete bool    // nothing is missing from the base on
	Version  uint64  // of the newest update
	LSN      log.LSN // the highest of its updates
	Stamp    uint64  // the highest of its updates
}

// Page returns what is left of a page.
func (s *Salvager) Page(pid PID) SalvagedPage {
	x := SalvagedPage{PID: pid}
	slot, known := s.slots[pid]
	p := s.pages[pid]
	if p == nil {
		x.Free = slot.free
		return x
	}
	newest := p.updates[len(p.updates)-1]
	x.Version, x.LSN = newest.version, newest.at.LSN
	x.Free = newest.kind == log.KindFree || known && slot.free && slot.version >= newest.version
	updates := p.state()
	x.Base = len(updates) > 0 && updates[0].isBase()
	x.Complete = x.Base && (!known || slot.version <= x.Version)
	for i := range updates {
		x.LSN, x.Stamp = max(x.LSN, updates[i].at.LSN), max(x.Stamp, updates[i].stamp)
		if i > 0 && updates[i].version != updates[i-1].version+1 {
			x.Complete = false
		}
	}
	return x
}

// state returns the updates that a page consists of: the newest base and the deltas
// behind it, or the deltas alone.
func (p *salvagedPage) state() []salvagedUpdate {
	var updates []salvagedUpdate
	for _, u := range p.updates {
		switch n := len(updates); {
		case u.kind == log.KindFree:
			updates = updates[:0] // what comes next is of another life
		case u.isBase():
			// Of deltas of the same version it is the sum.
			updates = append(updates[:0], u)
		case n == 0 || u.version > updates[n-1].version:
			updates = append(updates, u)
		}
	}
	if n := len(updates); n > 1 && testhooks.SalvageOlderVersion.On() {
		updates = updates[:n-1]
	}
	return updates
}

// A SalvagedFragment is a fragment of a page. Gap: updates right before it are
// missing.
type SalvagedFragment struct {
	Fragment
	Gap bool
}

// Read returns the page's fragments, oldest first; the caller owns them. The first
// is the base if there is one. Stamps grow, and mean nothing.
func (s *Salvager) Read(pid PID) ([]SalvagedFragment, error) {
	p := s.pages[pid]
	if p == nil {
		return nil, ErrGone
	}
	updates := p.state()
	fragments := make([]SalvagedFragment, 0, len(updates))
	for i := range updates {
		data, err := s.read(pid, &updates[i])
		if err != nil {
			return nil, err
		}
		gap := i == 0 && !updates[0].isBase() || i > 0 && updates[i].version != updates[i-1].version+1
		fragments = append(fragments, SalvagedFragment{Fragment{Data: data, Stamp: uint64(i)}, gap})
	}
	return fragments, nil
}

// ReadNewestBase returns the first of the page's fragments.
//
// REQUIRES: there is a base.
func (s *Salvager) ReadNewestBase(pid PID) ([]byte, error) {
	u := s.pages[pid].state()[0]
	return s.read(pid, &u)
}

// HasBase reports whether there is a base of the page that contains its updates up
// to the version and no more.
func (s *Salvager) HasBase(pid PID, version uint64) bool { return s.base(pid, version) != nil }

func (s *Salvager) base(pid PID, version uint64) *salvagedUpdate {
	p := s.pages[pid]
	if p == nil {
		return nil
	}
	for i := range p.updates {
		if u := &p.updates[i]; u.version == version && u.isBase() {
			return u
		}
	}
	return nil
}

// ReadBase returns that base; ErrGone if there is none. The caller owns it.
func (s *Salvager) ReadBase(pid PID, version uint64) ([]byte, error) {
	u := s.base(pid, version)
	if u == nil {
		return nil, ErrGone
	}
	return s.read(pid, u)
}

func (s *Salvager) read(pid PID, want *salvagedUpdate) (data []byte, err error) {
	var u log.Update
	if u, s.buffer, err = s.log.Read(want.at, s.buffer); err != nil {
		return nil, err
	}
	if u.PID != pid || u.Version != want.version || u.Kind != want.kind {
		return nil, &log.CorruptError{LSN: want.at.LSN, Err: fmt.Errorf("page %d version %d: %v stands there", pid, want.version, u)}
	}
	if u.Compressed {
		if data, err = s.codec.appendDecompressed(nil, u.Payload); err != nil {
			err = &log.CorruptError{LSN: want.at.LSN, Err: err}
		}
		return data, err
	}
	return slices.Clone(u.Payload), nil
}
