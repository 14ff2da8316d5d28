package tree

import (
	"fmt"
	"slices"
	"sync"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/pagecache"
)

// Growth of the tree. A split is one record: the right pages, fresh; the left
// page; and the separators, a delta on the parent, whose writer bit is held. So a
// split is never found half done after a crash (T2).
//
//	1  merge the node as a View shows it and decide where to cut
//	2  acquire the parent: from here on its View says Owned
//	3  commit: the right pages are published, then the left one by compare-and-
//	   swap, which decides, then the delta on the parent
//	4  the parent's bit is given back
//
// Between the left page's publication and the parent's, who comes to the left
// page for a key beyond its high fence goes right. A lost compare-and-swap is
// tried again with the left page acquired as well, before the parent: bits are
// taken upwards and from left to right (T6).
//
// The root is recognised by the flag in its base, seen in the same View that the
// split replaces. Its split makes the new root in the same record and clears the
// flag (T5).

// tend splits the node if it is too large, else has it consolidated if a
// threshold is passed. What goes wrong is counted and comes up again: the write
// that led here is complete.
func (t *Tree) tend(pid PID) {
	if err := t.tryTend(pid); err != nil {
		t.metrics.tendErrors.Add(1)
	}
}

// Size is an upper bound of what a page amounts to, and a poor one for a page
// that is overwritten: if no split comes of it, the page is folded in memory, so
// that the next write does not find it too large again. Not the other way round:
// where the deltas went decides where a split cuts (see cuts), and folding first
// would have loads in key order leave their nodes half empty.
func (t *Tree) tryTend(pid PID) error {
	if t.overfull(pid) {
		if done, err := t.trySplit(pid); done || err != nil {
			return err
		}
		if err := t.fold(pid); err != nil {
			return err
		}
	}
	if err := t.maintain(pid); err != nil {
		return err
	}
	return t.settle(pid)
}

func (t *Tree) maintain(pid PID) error {
	g := t.cache.Pin()
	defer g.Unpin()
	return t.cache.Maintain(g, pid)
}

func (t *Tree) fold(pid PID) error {
	g := t.cache.Pin()
	defer g.Unpin()
	return t.cache.Fold(g, pid)
}

// tendIfDue tends a page that an Update has changed.
func (t *Tree) tendIfDue(pid PID) {
	g := t.cache.Pin()
	v, err := t.cache.View(g, pid)
	due := err == nil && v.Resident()
	if due {
		deltas := t.options.Cache.MergeDeltas
		if base := v.Base(); len(base) > 0 && base[0] == kindInner {
			deltas = innerDeltas
		}
		due = v.Deltas() >= deltas || v.Size()-len(v.Base()) >= t.options.MaxNodeBytes/2
	}
	g.Unpin()
	if due {
		t.tend(pid)
	}
}

// A split is one on its way into the store.
type split struct {
	t   *Tree
	pid PID
	u   *pagecache.Update

	view   pagecache.View // of the left page
	node   node           // what it amounts to
	cuts   []int
	parent place // acquired; not for a root

	separators []separator
	newRoot    PID // 0 unless the root is split
	generation uint64

	room *splitRoom
}

// A splitRoom is memory for the node and the pieces of a split, kept for the next one.
type splitRoom struct{ node, pieces []byte }

var splitRooms = sync.Pool{New: func() any { return new(splitRoom) }}

// splitRoomMax bounds what is kept: nodes that batches have made large are split too.
const splitRoomMax = 256 << 10

func (r *splitRoom) release() {
	if cap(r.node) <= splitRoomMax && cap(r.pieces) <= splitRoomMax {
		r.pieces = r.pieces[:0]
		splitRooms.Put(r)
	}
}

// piece returns the node of n's entries [from, to), until release.
func (r *splitRoom) piece(n node, from, to int, m meta) []byte {
	start := len(r.pieces)
	r.pieces = appendRange(r.pieces, n, from, to, m, rangePrefix(n, from, to))
	return r.pieces[start:len(r.pieces):len(r.pieces)]
}

// splitOutcome says what became of an attempt.
type splitOutcome uint8

const (
	splitUnneeded splitOutcome = iota + 1
	splitDone
	splitLost  // the page has changed meanwhile
	splitLater // what it needs is not there, such as the parent level
)

// splitTriesMax bounds the attempts to split a page now; the next write that
// finds it too large begins anew.
const splitTriesMax = 4

// trySplit splits the page if, merged, it is larger than a node should be, and
// reports whether it did.
func (t *Tree) trySplit(pid PID) (bool, error) {
	if !t.overfull(pid) {
		return false, nil
	}
	room := splitRooms.Get().(*splitRoom)
	defer room.release()
	for try := range splitTriesMax {
		s := &split{t: t, pid: pid, u: t.cache.Begin(), room: room}
		room.pieces = room.pieces[:0]
		outcome, absent, err := s.attempt(try > 0)
		if err == nil && absent != 0 {
			err = t.cache.Load(absent)
			outcome = splitLost
		}
		if err != nil || outcome == splitUnneeded || outcome == splitLater {
			return false, err
		}
		if outcome == splitDone {
			s.count()
			if s.newRoot != 0 {
				t.raiseRoot(s.newRoot, s.generation)
			} else {
				t.tendIfDue(s.parent.view.PID())
			}
			return true, nil
		}
	}
	return false, nil
}

// overfull is the cheap test that comes before an attempt.
func (t *Tree) overfull(pid PID) bool {
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.View(g, pid)
	limit := t.options.MaxNodeBytes
	return err == nil && v.Resident() && !v.Owned() && v.Size() > limit && mergedBytes(v) > limit
}

// mergedBytes estimates what a view amounts to: a change of a key that the base
// has takes its place. Without it every look after a page that is overwritten
// would merge it twice, once to see that there is nothing to split. Several changes
// of a key replace its entry once.
func mergedBytes(v pagecache.View) int {
	size := v.Size()
	var replaced [32]int // entries of the base, by the newest part of a longer chain
	count := 0
	n, err := asNode(v.Base())
	if err != nil || !n.isLeaf() {
		return size
	}
	for d := v.Newest(); d.Valid() && count < len(replaced); d = d.Older() {
		c, err := asDelta(d.Data())
		if err != nil || c[0] != kindLeafOne {
			continue
		}
		change, ok := c.at(0)
		if !ok {
			continue
		}
		if i, equal := n.search(change.key); equal && !slices.Contains(replaced[:count], i) {
			replaced[count] = i
			count++
			size -= n.offset(i+1) - n.offset(i)
		}
	}
	return size
}

// attempt uses up the Update. absent is a page that has to be loaded first.
func (s *split) attempt(own bool) (outcome splitOutcome, absent PID, err error) {
	open := true
	defer func() {
		if open {
			s.u.Discard()
		}
	}()
	outcome, err = s.plan(own)
	if outcome != 0 || err != nil {
		return outcome, 0, err
	}
	yield(yieldSplitPlanned)
	if !s.node.isRoot() {
		outcome, absent, err = s.acquireParent()
		if outcome != 0 || absent != 0 || err != nil {
			return outcome, absent, err
		}
	}
	yield(yieldSplitParent)
	if err := s.fill(); err != nil {
		return 0, 0, err
	}
	open = false
	r, err := s.u.Commit()
	if err == nil && r.Outcome != pagecache.Done {
		return splitLost, 0, nil
	}
	return splitDone, 0, err
}

// plan views the page, merges it and decides where to cut.
func (s *split) plan(own bool) (outcome splitOutcome, err error) {
	g := s.t.cache.Pin() // the Update's own guard keeps the view valid after Unpin
	defer g.Unpin()
	if own {
		s.view, err = s.u.Acquire(s.pid)
	} else {
		s.view, err = s.t.cache.View(g, s.pid)
	}
	if err == pagecache.ErrGone || err == nil && s.view.Resident() && !isNode(s.view.Base()) {
		return splitUnneeded, nil // it was joined away
	}
	limit := s.t.options.MaxNodeBytes
	if err != nil || !s.view.Resident() || !own && s.view.Owned() || s.view.Size() <= limit {
		return splitUnneeded, err
	}
	m := newMerger()
	defer m.release()
	var fold folder // no user code under a writer bit
	if !own {
		fold = s.t.folder()
	}
	s.node, err = m.mergeView(s.room.node[:0], s.view, fold)
	s.room.node = s.node
	if err != nil || len(s.node) <= limit {
		return splitUnneeded, err
	}
	s.cuts = m.cuts(s.node, limit)
	if n := s.node; len(s.cuts) == 0 && n.isLeaf() && spanBytes(n, 0, n.count()) > s.t.isolateBytes() {
		s.cuts = isolated(n)
	}
	if len(s.cuts) == 0 {
		return splitUnneeded, nil
	}
	return 0, nil
}

// mergeView appends to dst, which is empty, what the view amounts to, and returns it,
// or nil if it cannot be told: a batch is being installed in it. Nothing can be freed
// here.
func (m *merger) mergeView(dst []byte, v pagecache.View, fold folder) (node, error) {
	in := &m.in
	defer func() { clear(in.Fragments) }()
	if !v.Merging(in) {
		return nil, nil
	}
	base, err := asNode(in.Fragments[0].Data)
	if err != nil {
		return nil, fmt.Errorf("page %d: %w", v.PID(), err)
	}
	out, err := m.merge(dst, base, in.Fragments[1:], rule{moments: in.Moments, keepAll: in.KeepAll, keepIndirect: true, fold: fold})
	return node(out), err
}

// acquireParent takes the writer bit of the node above. It is splitLater if the
// growth of the root that makes that level is not known yet.
func (s *split) acquireParent() (outcome splitOutcome, absent PID, err error) {
	g := s.t.cache.Pin()
	p, err := s.t.descend(g, 0, &seek{key: s.node.lo()}, s.node.level()+1)
	g.Unpin()
	switch {
	case err != nil || p.absent != 0:
		return 0, p.absent, err
	case p.node == nil:
		return splitLater, 0, nil
	}
	s.parent, _, err = s.t.own(s.u, p.view.PID(), &seek{key: s.node.lo()}, s.node.level()+1)
	if err == errStale {
		return splitLost, 0, nil
	}
	return 0, s.parent.absent, err
}

// fill puts all pages of the split into the Update, from right to left, since
// each names its right sibling.
func (s *split) fill() error {
	n := s.node
	s.separators = make([]separator, len(s.cuts))
	m := n.meta()
	m.root, m.generation = false, 0
	end := n.count()
	for i := len(s.cuts) - 1; i >= 0; i-- {
		m.lo = separatorAt(n, s.cuts[i])
		piece := s.room.piece(n, s.cuts[i], end, m)
		pid, err := s.u.Allocate(piece)
		if err != nil {
			return err
		}
		s.t.shrinker.kept.note(pid, piece)
		s.separators[i] = separator{m.lo, pid}
		m.hi, m.right, m.last = m.lo, pid, false
		end = s.cuts[i]
	}
	m.lo = n.lo()
	s.u.Replace(s.view, s.room.piece(n, 0, end, m))
	if !n.isRoot() {
		s.post()
		return nil
	}
	children := append([]separator{{n.lo(), s.pid}}, s.separators...)
	s.generation = n.generation() + 1
	var err error
	s.newRoot, err = s.t.growRoot(s.u, n, children, s.generation)
	return err
}

// postBytesMax bounds one delta of separators.
const postBytesMax = 32 << 10

// post adds the separators to the parent.
func (s *split) post() {
	if halfDoneHook != nil && halfDoneHook() {
		return
	}
	var changes []change
	size := 0
	for i, x := range s.separators {
		changes = append(changes, change{key: x.key, value: le.AppendUint64(nil, uint64(x.pid))})
		size += len(x.key) + 16
		if size > postBytesMax || i == len(s.separators)-1 {
			s.u.Append(s.parent.view, appendChanges(nil, kindInnerOne, changes), 0)
			changes, size = changes[:0], 0
		}
	}
}

// growRoot makes the levels above children, of which there may be many, up to a
// new root.
func (t *Tree) growRoot(u *pagecache.Update, n node, children []separator, generation uint64) (PID, error) {
	m := meta{kind: kindInner, level: n.level() + 1, tree: n.tree()}
	for innerSize(children) > t.options.MaxNodeBytes && len(children) >= 2*innerChildrenMin {
		upper, err := t.innerLevel(u, m, children)
		if err != nil {
			return 0, err
		}
		children = upper
		m.level++
	}
	m.root, m.last, m.generation = true, true, generation
	return u.Allocate(appendInner(nil, m, children))
}

// innerLevel makes one level of inner nodes over children and returns them.
func (t *Tree) innerLevel(u *pagecache.Update, m meta, children []separator) ([]separator, error) {
	var starts []int
	for i, size := 0, 0; i < len(children); i++ {
		entry := innerEntryBytes(children[i])
		enough := len(starts) == 0 || i-starts[len(starts)-1] >= innerChildrenMin
		if i == 0 || enough && size+entry > t.options.MaxNodeBytes*9/10 && len(children)-i >= innerChildrenMin {
			starts = append(starts, i)
			size = headerBytes
		}
		size += entry
	}
	if len(starts) == 1 {
		starts = append(starts, len(children)-innerChildrenMin)
	}
	upper := make([]separator, len(starts))
	end := len(children)
	m.last = true
	for i := len(starts) - 1; i >= 0; i-- {
		m.lo = children[starts[i]].key
		pid, err := u.Allocate(appendInner(nil, m, children[starts[i]:end]))
		if err != nil {
			return nil, err
		}
		upper[i] = separator{m.lo, pid}
		m.hi, m.right, m.last = m.lo, pid, false
		end = starts[i]
	}
	return upper, nil
}

func innerEntryBytes(s separator) int { return 10 + entryBytes(0, len(s.key), 8) }

func innerSize(children []separator) int {
	size := headerBytes
	for _, s := range children {
		size += innerEntryBytes(s)
	}
	return size
}

func (s *split) count() {
	t := s.t
	switch {
	case s.newRoot != 0:
		paths.Hit(paths.RootGrowth)
		t.metrics.rootGrowths.Add(1)
	case !s.node.isLeaf():
		paths.Hit(paths.SplitInner)
		t.metrics.innerSplits.Add(1)
	default:
		paths.Hit(paths.SplitLeaf)
		t.metrics.leafSplits.Add(1)
	}
	if len(s.cuts) > 1 {
		paths.Hit(paths.SplitMany)
	}
}

// separatorAt returns the key before which a node is cut at entry i: in a leaf
// the shortest that divides i from the one before, in an inner node i's. A leaf of one
// key may be cut before it, and behind it: there the next key that there can be divides.
func separatorAt(n node, i int) []byte {
	if i == n.count() {
		return append(n.appendKey(nil, i-1), 0)
	}
	key := n.appendKey(nil, i)
	if !n.isLeaf() || i == 0 {
		return key
	}
	return key[:commonPrefix(n.appendKey(nil, i-1), key)+1]
}

// appendChanges appends a delta: one is the kind of a delta with one change, and
// the kind of a run follows it.
func appendChanges(dst []byte, one byte, changes []change) []byte {
	if len(changes) == 1 {
		return appendOne(dst, one, changes[0].flags, changes[0].key, changes[0].value)
	}
	return appendRun(dst, one+1, changes)
}
