package tree

import (
	"bytes"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/pagecache"
)

// Joins. A run of neighbours under one parent becomes one node, the leftmost, in one
// record: that page with all their entries, the others freed, the parent without
// their separators.
//
//	1  find the parent and a run of its children that fits one node; load them;
//	   hold nothing
//	2  acquire the children from left to right, then the parent (T6)
//	3  merge them as they are now, and look whether they still are a run that fits
//	4  commit: an Update whose pages are all acquired cannot fail but for the log
//
// Who looks at the pages while they are published sees each as it was or as it is,
// in that order from left to right, the parent last:
//   - in the left page as it was, the keys of the others lie to the right of it,
//     and in the others as they were;
//   - in the left page as it is, it has them all, and they change no more, since
//     their bits are held until the parent is published;
//   - a page that is free sends the traversal back to the root (errStale), and there
//     the left page is as it is by then.
//
// A freed PID is not reused while a guard from before remains (P5). So within one
// guard a page that was reached is the page that was meant, or free. What outlives
// a guard is a hint: it may name another page by now, and is looked at before it
// is used (descend), compared with its page version (blind updates, commits), or
// does no harm (tend). A blind update and a split that is finished late hold on to
// the parent's version, which a join changes.
//
// A join is worth its writing when nodes are thin: a quarter full at most. What it
// makes is at most six tenths full, and a split makes nodes that are more than two
// fifths full, so the two do not undo each other. Or what it makes are inner nodes with
// so few children that they are never split (T8), however long the separators.
const (
	thinShare   = 25 // percent of a node's room: up to that, a node is joined
	joinedShare = 60 // percent of it that the result fills at most
	joinMax     = 32 // nodes that one join makes one of
)

// A fill says what is in a node, in bytes. The fences do not count: they may be longer
// than all of the node, and of those between nodes that are joined nothing stays.
type fill struct {
	content  int // what is neither header nor fence
	lo, hi   int // fences
	children int // of an inner node: so many at most
}

func fillOf(n node) fill {
	f := fill{lo: n.loBytes(), hi: n.hiBytes()}
	f.content = len(n) - headerBytes - f.lo - f.hi
	if !n.isLeaf() {
		f.children = n.count()
	}
	return f
}

// join is the fill of what f and right, which follows it, are joined to, about.
func (f fill) join(right fill) fill {
	return fill{f.content + right.content, f.lo, right.hi, f.children + right.children}
}

// within reports whether the content takes so many percent, at most, of the room that a
// node has for it beside header and fences. Nothing always does.
func (f fill) within(percent, nodeBytes int) bool {
	return f.content*100 <= max(0, nodeBytes-headerBytes-f.lo-f.hi)*percent
}

func (f fill) thin(nodeBytes int) bool {
	return f.children == 1 || f.within(thinShare, nodeBytes)
}

// joinable reports whether a join may make such a node.
func (f fill) joinable(percent, nodeBytes int) bool {
	return f.children > 0 && f.children < 2*innerChildrenMin || f.within(percent, nodeBytes)
}

// A join is one under way.
type join struct {
	t      *Tree
	level  int
	pids   []PID // the run, from left to right
	wanted int   // how long it was meant to be
	lo     []byte

	u      *pagecache.Update
	views  []pagecache.View
	nodes  []node // merged
	parent place
}

// tryJoin joins page pid with neighbours, if it is a thin node and they have room.
// It reports whether it did. It is called by the joiner alone, with joins.mu held.
func (t *Tree) tryJoin(pid PID) (bool, error) {
	j, err := t.planJoin(pid)
	if err != nil || j == nil {
		return false, err
	}
	j.u = t.cache.Begin()
	done := false
	defer func() {
		if !done {
			j.u.Discard()
		}
	}()
	ok, err := j.acquire()
	if err != nil || !ok {
		return false, err
	}
	left, above, ok := j.build()
	if !ok {
		return false, nil
	}
	j.u.Replace(j.views[0], left)
	for _, v := range j.views[1:] {
		j.u.Free(v)
	}
	j.u.Replace(j.parent.view, above)
	yield(yieldJoinOwned)
	done = true
	if _, err := j.u.Commit(); err != nil {
		return false, err
	}
	j.settle(left, above)
	return true, nil
}

// planJoin finds a run to join around page pid, or nil.
func (t *Tree) planJoin(pid PID) (*join, error) {
	if err := t.cache.Load(pid); err != nil {
		return nil, err
	}
	lo, level, ok := t.thinNode(pid)
	if !ok {
		return nil, nil
	}
	children, at, err := t.siblings(pid, lo, level)
	if err != nil || at < 0 {
		return nil, err
	}
	from, to, run := at, at+1, t.roughFill(pid)
	for to-from < min(joinMax, len(children)) {
		var left, right fill
		if from > 0 {
			left = t.roughFill(children[from-1].pid)
		}
		if to < len(children) {
			right = t.roughFill(children[to].pid)
		}
		onRight := from == 0 || to < len(children) && right.content <= left.content
		joined := left.join(run)
		if onRight {
			joined = run.join(right)
		}
		if !joined.joinable(joinedShare, t.options.MaxNodeBytes) {
			break
		}
		run = joined
		if onRight {
			to++
		} else {
			from--
		}
	}
	if to-from < 2 {
		return nil, nil
	}
	j := &join{t: t, level: level}
	for _, c := range children[from:to] {
		if err := t.cache.Load(c.pid); err != nil {
			return nil, err
		}
		j.pids = append(j.pids, c.pid)
	}
	return j, nil
}

// thinNode returns the low fence and the level of a node that wants to be joined.
func (t *Tree) thinNode(pid PID) (lo []byte, level int, ok bool) {
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.Peek(g, pid)
	if err != nil || !v.Resident() {
		return nil, 0, false
	}
	n, err := asNode(v.Base())
	if err != nil || n.isRoot() || !roughFillOf(v).thin(t.options.MaxNodeBytes) {
		return nil, 0, false
	}
	return bytes.Clone(n.lo()), n.level(), true
}

// siblings returns the children of the parent of page pid, which begins at lo, and
// its place among them; -1 if it is not there.
func (t *Tree) siblings(pid PID, lo []byte, level int) (children []separator, at int, err error) {
	g, p, err := t.locate(0, &seek{key: lo}, level+1)
	if err != nil {
		return nil, -1, err
	}
	defer g.Unpin()
	if p.node == nil {
		return nil, -1, nil
	}
	m := newMerger()
	defer m.release()
	n, err := m.mergeView(nil, p.view, folder{})
	if err != nil || n == nil {
		return nil, -1, err
	}
	at = -1
	for i := range n.count() {
		children = append(children, separator{n.appendKey(nil, i), n.child(i)})
		if children[i].pid == pid {
			at = i
		}
	}
	return children, at, nil
}

// roughFill is about what the page amounts to. One that is not in memory is read:
// what it takes in the log says little of a page from which much was deleted, and
// neighbours of a thin node are often thin themselves.
func (t *Tree) roughFill(pid PID) fill {
	full := fill{content: t.options.MaxNodeBytes}
	if t.cache.Load(pid) != nil {
		return full
	}
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.Peek(g, pid)
	if err != nil || !v.Resident() || !isNode(v.Base()) {
		return full
	}
	return roughFillOf(v)
}

// roughFillOf estimates what a view of a node amounts to.
func roughFillOf(v pagecache.View) fill {
	f := fillOf(v.Base())
	f.content += mergedBytes(v) - len(v.Base())
	for d := v.Newest(); d.Valid() && f.children > 0; d = d.Older() {
		if x, err := asDelta(d.Data()); err == nil {
			f.children += x.count()
		}
	}
	return f
}

// acquire takes the pages' writer bits and merges them. Some may have been evicted
// again, or joined or split by now: what is left is the first two or more in a row
// that are as they should be. It is false if there are none: the node is still thin,
// and comes up again.
func (j *join) acquire() (ok bool, err error) {
	run := j.pids
	j.pids, j.wanted = nil, len(run)
	for _, pid := range run {
		v, err := j.u.Acquire(pid)
		if err == pagecache.ErrGone {
			continue
		}
		if err != nil {
			return false, err
		}
		yield(yieldJoinOwned)
		n, err := j.merge(v)
		if err != nil {
			return false, err
		}
		last := len(j.nodes) - 1
		if n == nil || n.level() != j.level || n.isRoot() || last >= 0 && !follows(j.nodes[last], n, pid) {
			j.u.Release(pid)
			if last > 0 {
				break
			}
			for _, pid := range j.pids {
				j.u.Release(pid)
			}
			j.pids, j.views, j.nodes = nil, nil, nil
			continue
		}
		j.pids, j.views, j.nodes = append(j.pids, pid), append(j.views, v), append(j.nodes, n)
	}
	if len(j.nodes) < 2 {
		return false, nil
	}
	j.lo = j.nodes[0].lo()
	g := j.t.cache.Pin()
	p, err := j.t.descend(g, 0, &seek{key: j.lo}, j.level+1)
	g.Unpin() // the Update's guard is older
	if err != nil || p.absent != 0 || p.node == nil {
		return false, err
	}
	j.parent, _, err = j.t.own(j.u, p.view.PID(), &seek{key: j.lo}, j.level+1)
	return err == nil && j.parent.absent == 0, ignoreStale(err)
}

func (j *join) merge(v pagecache.View) (node, error) {
	if !v.Resident() || !isNode(v.Base()) {
		return nil, nil
	}
	m := newMerger()
	defer m.release()
	return m.mergeView(nil, v, folder{}) // no user code under a writer bit
}

// follows reports whether n, page pid, is the right sibling of left.
func follows(left, n node, pid PID) bool {
	return !left.isLast() && left.right() == pid && bytes.Equal(left.hi(), n.lo())
}

// build makes the joined node and the parent without the separators of the others.
func (j *join) build() (left, above []byte, ok bool) {
	left = appendJoined(j.nodes)
	// The plan's sizes are estimates.
	if !fillOf(left).joinable(joinedShare+10, j.t.options.MaxNodeBytes) {
		return nil, nil, false
	}
	n, err := j.merge(j.parent.view)
	if err != nil || n == nil {
		return nil, nil, false
	}
	var children []separator
	first := -1
	for i := range n.count() {
		if n.child(i) == j.pids[0] {
			first = i
		}
		children = append(children, separator{n.appendKey(nil, i), n.child(i)})
	}
	if first < 0 || first+len(j.pids) > len(children) {
		return nil, nil, false
	}
	for i, pid := range j.pids {
		if c := children[first+i]; c.pid != pid || !bytes.Equal(c.key, j.nodes[i].lo()) {
			return nil, nil, false
		}
	}
	children = append(children[:first+1], children[first+len(j.pids):]...)
	return left, appendInner(nil, n.meta(), children), true
}

// appendJoined makes one node of neighbours, from left to right.
func appendJoined(nodes []node) []byte {
	first, last := nodes[0], nodes[len(nodes)-1]
	m := first.meta()
	m.hi, m.right, m.last, m.versioned = last.hi(), last.right(), last.isLast(), false
	count, bytes := 0, 0
	var least, greatest []byte
	for _, n := range nodes {
		m.stamp = max(m.stamp, n.newest())
		m.versioned = m.versioned || n.versioned()
		if n.count() == 0 {
			continue
		}
		if count == 0 {
			least = n.appendKey(nil, 0)
		}
		greatest = n.appendKey(greatest[:0], n.count()-1)
		count += n.count()
	}
	prefix := 0
	if m.kind == kindLeaf {
		prefix = commonPrefix(least, greatest)
	}
	for _, n := range nodes {
		for i := range n.count() {
			e := n.entry(i)
			bytes += entryBytes(e.flags, e.suffixBytes+n.prefixBytes()-prefix, len(e.value))
		}
	}
	out, w := newWriter(nil, m, least[:prefix], count, bytes)
	var key []byte
	for _, n := range nodes {
		for i := range n.count() {
			e := n.entry(i)
			key = n.appendKey(key[:0], i)
			suffix := key[prefix:]
			w.put(headOf(suffix), e.flags, len(suffix), e.stamp, suffix[min(8, len(suffix)):], e.value)
		}
	}
	w.done()
	return out
}

// settle keeps the books after a join.
func (j *join) settle(left, above node) {
	t := j.t
	for _, pid := range j.pids[1:] {
		t.shrinker.kept.forget(pid)
	}
	t.shrinker.kept.note(j.pids[0], left)
	if j.level > 0 {
		// Children that had no neighbour under their parent have one now.
		for _, n := range j.nodes[1:] {
			t.thin.noteAgain(n.child(0))
		}
	}
	if j.wanted > len(j.pids) || len(j.pids) == joinMax {
		t.thin.note(j.pids[0]) // there is more
	}
	t.thin.noteIf(j.parent.view.PID(), above)
	if j.level == 0 {
		paths.Hit(paths.JoinLeaf)
		t.metrics.leafJoins.Add(1)
	} else {
		paths.Hit(paths.JoinInner)
		t.metrics.innerJoins.Add(1)
	}
	t.metrics.joined.Add(uint64(len(j.pids) - 1))
}
