package tree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/pagecache"
)

// A Salvage brings out of a store that may be damaged anywhere what can be
// trusted. It looks at no inner node: each leaf says itself which keys it is for,
// so what is lost of the levels above costs nothing. Where two leaves are for one
// key, because a split or a join between them is lost, the one with the newer stamp
// wins, then the one with the higher LSN; what the other had is not used.
type Salvage struct {
	pages  *pagecache.Salvager
	merger Merger
	target SalvageTarget

	leaves  []salvagedLeaf
	orphans []pagecache.SalvagedPage // deltas of leaves without a base
	holes   []LostRange              // the keys that no leaf is for
	found   map[string]struct{}      // keys of those that orphans had, newest orphan first
}

// A SalvageTarget takes what a Salvage finds. Arguments are valid during the call.
// An error ends the Salvage.
type SalvageTarget struct {
	// Set is called with each key that has a value, ascending; but with those that
	// were found in ranges that are lost, at the end.
	Set func(key, value []byte) error
	// SetFrom is the same for values that are not held in memory. If reading r fails,
	// it returns that error wrapped, and has not set the key.
	SetFrom func(key []byte, r io.Reader, size int64) error
	// Lost is called with each range of keys that may be missing or have older
	// values, in no order.
	Lost func(LostRange)
	// LostValue is called with each key whose value could not be put together.
	LostValue func(key []byte, why error)
}

// A LostRange is a range of keys that may be missing or have older values, or may
// be there although they were deleted. Hi nil is the end.
type LostRange struct {
	Lo, Hi []byte
	Why    string
}

// A salvagedLeaf is a leaf with a base that can be read.
type salvagedLeaf struct {
	pagecache.SalvagedPage
	lo, hi []byte // hi nil: the end
	stamp  uint64 // the newest merged into it, or of a delta
}

func (l *salvagedLeaf) beats(other *salvagedLeaf) bool {
	return cmp.Or(cmp.Compare(l.stamp, other.stamp), cmp.Compare(l.LSN, other.LSN), cmp.Compare(l.PID, other.PID)) > 0
}

// OpenSalvage reads the log of the store in dir. Errors: as of
// pagecache.OpenSalvager. It must be closed.
func OpenSalvage(fsys vfs.FS, dir string, merger Merger, target SalvageTarget) (*Salvage, error) {
	pages, err := pagecache.OpenSalvager(fsys, dir)
	if err != nil {
		return nil, err
	}
	if testhooks.SalvageReportNothing.On() {
		target.Lost, target.LostValue = func(LostRange) {}, func([]byte, error) {}
	}
	return &Salvage{pages: pages, merger: merger, target: target, found: map[string]struct{}{}}, nil
}

// Close gives up the store.
func (s *Salvage) Close() error { return s.pages.Close() }

// Damage returns what is wrong with the files.
func (s *Salvage) Damage() (damage []*log.CorruptError) {
	for _, d := range s.pages.Damage() {
		damage = append(damage, &d.CorruptError)
	}
	return damage
}

// Run salvages. Errors: those of the context, of the target and of the file system;
// bad bytes are none.
func (s *Salvage) Run(ctx context.Context) error {
	if unproven := s.pages.Unproven(); len(unproven) > 0 {
		s.target.Lost(LostRange{Why: fmt.Sprintf("updates that could not be read may have been of any key: %v", &unproven[0].CorruptError)})
	}
	if err := s.findLeaves(ctx); err != nil {
		return err
	}
	for _, p := range s.tile() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.bringOut(p); err != nil {
			return err
		}
	}
	slices.SortFunc(s.orphans, func(a, b pagecache.SalvagedPage) int { return cmp.Compare(b.LSN, a.LSN) })
	for _, page := range s.orphans {
		if err := s.bringOutDeltas(page); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// findLeaves looks at the base of every page.
func (s *Salvage) findLeaves(ctx context.Context) error {
	for pid := range s.pages.Pages() {
		if err := ctx.Err(); err != nil {
			return err
		}
		page := s.pages.Page(pid)
		if page.Free {
			continue
		}
		if !page.Base {
			s.orphans = append(s.orphans, page)
			continue
		}
		data, err := s.pages.ReadNewestBase(pid)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		n := node(data)
		if err != nil || !isNode(data) || !n.isLeaf() || n.validate() != nil || n.tree() != 0 {
			continue // what a leaf of these bytes was for, will be a hole
		}
		if len(n.lo()) > 0 && pid%4 == 0 && testhooks.SalvageDropRightHalf.On() {
			continue
		}
		s.leaves = append(s.leaves, salvagedLeaf{page, bytes.Clone(n.lo()), bytes.Clone(n.hi()), max(n.newest(), page.Stamp)})
	}
	return nil
}

// A piece is the part of the key space for which a leaf is taken.
type piece struct {
	leaf   *salvagedLeaf
	lo, hi []byte
}

// tile gives each key to the leaf that wins there, and notes what is lost.
func (s *Salvage) tile() []piece {
	slices.SortFunc(s.leaves, func(a, b salvagedLeaf) int { return bytes.Compare(a.lo, b.lo) })
	var pieces []piece
	var active []*salvagedLeaf // those that have begun and not ended
	at := []byte{}
	for next := 0; ; {
		for next < len(s.leaves) && bytes.Compare(s.leaves[next].lo, at) <= 0 {
			active = append(active, &s.leaves[next])
			next++
		}
		active = slices.DeleteFunc(active, func(l *salvagedLeaf) bool { return l.hi != nil && bytes.Compare(l.hi, at) <= 0 })
		var end []byte // of what begins at at; nil: the end
		if next < len(s.leaves) {
			end = s.leaves[next].lo
		}
		for _, l := range active {
			if l.hi != nil && (end == nil || bytes.Compare(l.hi, end) < 0) {
				end = l.hi
			}
		}
		pieces = s.addPiece(pieces, active, at, end)
		if end == nil {
			return pieces
		}
		at = end
	}
}

// addPiece adds what [lo, hi) is taken from, which all of active are for.
func (s *Salvage) addPiece(pieces []piece, active []*salvagedLeaf, lo, hi []byte) []piece {
	if len(active) == 0 {
		hole := LostRange{lo, hi, "no leaf was found that is for these keys"}
		s.holes = append(s.holes, hole)
		s.target.Lost(hole)
		return pieces
	}
	winner := active[0]
	for _, l := range active[1:] {
		if l.beats(winner) {
			winner = l
		}
	}
	if len(active) > 1 {
		s.target.Lost(LostRange{lo, hi, fmt.Sprintf("%d pages are for these keys, of which page %d was taken", len(active), winner.PID)})
	}
	if n := len(pieces); n > 0 && pieces[n-1].leaf == winner && bytes.Equal(pieces[n-1].hi, lo) {
		pieces[n-1].hi = hi
		return pieces
	}
	return append(pieces, piece{winner, lo, hi})
}

// bringOut hands the keys of a piece to the target.
func (s *Salvage) bringOut(p piece) error {
	merged, whole, err := s.mergeLeaf(p.leaf.PID)
	if errors.Is(err, ErrCorrupt) {
		s.target.Lost(LostRange{p.lo, p.hi, err.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	if !whole || !p.leaf.Complete {
		s.target.Lost(LostRange{p.lo, p.hi, fmt.Sprintf("updates of page %d could not be read", p.leaf.PID)})
	}
	from, _ := merged.search(p.lo)
	to := merged.count()
	if p.hi != nil {
		to, _ = merged.search(p.hi)
	}
	return s.bringOutEntries(merged, from, to, nil)
}

// mergeLeaf folds a leaf. whole is false if some of its deltas were left out.
func (s *Salvage) mergeLeaf(pid PID) (merged node, whole bool, err error) {
	fragments, err := s.pages.Read(pid)
	if err != nil {
		return nil, false, err
	}
	base := node(fragments[0].Data)
	deltas, whole := usable(base, fragments[1:])
	return mergeVisible(base, deltas, whole)
}

func mergeVisible(base node, deltas []pagecache.Fragment, whole bool) (node, bool, error) {
	m := newMerger()
	defer m.release()
	out, err := m.merge(nil, base, deltas, rule{visible: true, at: ^uint64(0), keepIndirect: true})
	if err == nil {
		err = node(out).validate()
	}
	return node(out), whole, err
}

// bringOutDeltas hands over what the deltas of a leaf without a base say of keys
// that no leaf is for.
func (s *Salvage) bringOutDeltas(page pagecache.SalvagedPage) error {
	fragments, err := s.pages.Read(page.PID)
	if errors.Is(err, ErrCorrupt) || err == pagecache.ErrGone {
		return nil
	}
	if err != nil {
		return err
	}
	if len(fragments) == 0 || delta(fragments[0].Data).validate() != nil || delta(fragments[0].Data).isInner() {
		return nil
	}
	base := node(appendEmpty(nil, meta{kind: kindLeaf, last: true}))
	deltas, _ := usable(base, fragments)
	merged, _, err := mergeVisible(base, deltas, false)
	if err != nil {
		return nil
	}
	return s.bringOutEntries(merged, 0, merged.count(), s.inHole)
}

// inHole reports whether no leaf is for the key, and none has brought it out.
func (s *Salvage) inHole(key []byte) bool {
	if _, found := s.found[string(key)]; found {
		return false
	}
	s.found[string(key)] = struct{}{}
	i, found := slices.BinarySearchFunc(s.holes, key, func(h LostRange, key []byte) int { return bytes.Compare(h.Lo, key) })
	if !found {
		i--
	}
	return i >= 0 && (s.holes[i].Hi == nil || bytes.Compare(key, s.holes[i].Hi) < 0)
}

// bringOutEntries hands over entries [from, to) of a merged leaf, those that pass
// if there is a choice.
func (s *Salvage) bringOutEntries(n node, from, to int, pass func(key []byte) bool) error {
	var key []byte
	for i := from; i < to; {
		end := n.group(i)
		key = n.appendKey(key[:0], i)
		if pass == nil || pass(key) {
			err := s.bringOutKey(n, key, i, end)
			if err != nil {
				return err
			}
		}
		i = end
	}
	return nil
}

// bringOutKey hands over one key, of which the leaf has entries [i, end): a value,
// or operands and what they lie on.
func (s *Salvage) bringOutKey(n node, key []byte, i, end int) error {
	e := n.entry(i)
	switch {
	case e.flags&entryTombstone != 0:
		return nil
	case e.flags&entryOperand != 0:
		return s.bringOutFolded(n, key, i, end)
	case e.flags&entryIndirect == 0:
		return s.target.Set(key, e.value)
	}
	if testhooks.SalvageLoseLarge.On() {
		return nil
	}
	r, err := s.valueReader(e.value)
	if err == nil {
		err = s.target.SetFrom(key, r, int64(r.chunks.total))
		if r.err != nil {
			err = r.err
		} else if err != nil {
			return err
		}
	}
	if err != nil {
		return s.lostValue(key, err)
	}
	return nil
}

func (s *Salvage) lostValue(key []byte, err error) error {
	if !errors.Is(err, ErrCorrupt) && !isMergeFailure(err) {
		return err
	}
	s.target.LostValue(key, err)
	return nil
}

// bringOutFolded folds the operands of a key.
func (s *Salvage) bringOutFolded(n node, key []byte, i, end int) error {
	var lists [][]byte // newest first
	var base []byte
	for ; i < end; i++ {
		e := n.entry(i)
		if e.flags&entryOperand != 0 {
			lists = append(lists, e.value)
			continue
		}
		if e.flags&entryTombstone == 0 {
			base = append([]byte{}, e.value...)
		}
		if e.flags&entryIndirect != 0 {
			r, err := s.valueReader(e.value)
			if err == nil {
				base, err = io.ReadAll(r)
			}
			if err != nil {
				return s.lostValue(key, err)
			}
		}
		break
	}
	slices.Reverse(lists)
	if testhooks.SalvageFoldTwice.On() {
		lists = append(lists, lists...)
	}
	value, _, err := folder{merger: s.merger}.fold(key, base, bytes.Join(lists, nil))
	if err != nil {
		return s.lostValue(key, err)
	}
	if value == nil {
		return nil
	}
	return s.target.Set(key, value)
}

// A salvagedValue reads a large value chunk by chunk.
type salvagedValue struct {
	s      *Salvage
	chunks chunkReader
	rest   []byte // of the chunk that was read last
	left   int    // bytes of the value behind it
	err    error  // what reading a chunk failed with
}

// valueReader returns a reader of the value that the list names, if all of its
// chunks are there.
func (s *Salvage) valueReader(list []byte) (*salvagedValue, error) {
	r, ok := readChunks(list)
	if !ok {
		return nil, fmt.Errorf("%w: list of chunks", ErrCorrupt)
	}
	x := &salvagedValue{s: s, chunks: r, left: r.total}
	for len(r.rest) > 0 {
		if c, ok := r.next(); !ok || !s.pages.HasBase(c.pid, c.version) {
			return nil, fmt.Errorf("%w: a part of the value, page %d version %d, was not found", ErrCorrupt, c.pid, c.version)
		}
	}
	return x, nil
}

// Read implements io.Reader.
func (x *salvagedValue) Read(p []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	if len(x.rest) == 0 {
		if x.left == 0 {
			return 0, io.EOF
		}
		if x.rest, x.err = x.next(); x.err != nil {
			return 0, x.err
		}
	}
	n := copy(p, x.rest)
	x.rest = x.rest[n:]
	return n, nil
}

func (x *salvagedValue) next() ([]byte, error) {
	c, ok := x.chunks.next()
	if !ok {
		return nil, fmt.Errorf("%w: list of chunks", ErrCorrupt)
	}
	page, err := x.s.pages.ReadBase(c.pid, c.version)
	if err == nil {
		err = checkChunk(page, c, min(x.chunks.part, x.left))
	}
	if err != nil {
		return nil, err
	}
	x.left -= len(page) - chunkHeaderBytes
	return page[chunkHeaderBytes:], nil
}
