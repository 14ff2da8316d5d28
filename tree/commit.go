package tree

import (
	"bytes"
	"fmt"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/pagecache"
)

// A commit writes to many leaves at one moment, and at that moment everything
// that it read still is as it was:
//
//	1  acquire: take the writer bits of the leaves in key order, those of leaves that
//	   are only read as well; look at the fences, and validate (validate.go)
//	2  append the deltas and commit the Update: one record or group, one commit cell
//
// Nothing is loaded meanwhile, and nothing waits but for the next bit (T6). If that
// would be needed, or if there are ranges to erase, of which most leaves need not be in
// memory, there is a step before:
//
//	0  scout: visit the leaves in key order, hold nothing, load what is needed
//
// What was scouted stands as long as the leaf's page version does, even if it has been
// evicted since, so only a leaf that has both changed and gone sends the commit back.
//
// Of two commits in conflict one gets through: bits are taken in one order, so one
// has all of its own, and it fails only if a third has been committed meanwhile.

// Commit does all of w at one moment, whole or not at all: for readers, for
// moments and after a crash. If anything in r, which may be nil, has a version
// newer than r.Moment, it returns ErrConflict and nothing has happened. Writes
// alone never conflict. The linearization point is the Update's. It returns when
// the writes are as durable as Options ask. Errors: ErrConflict, ErrUnsorted,
// ErrNoMerger, and those of Set.
//
// A commit without writes has nothing to say: its reads are those of a moment.
func (t *Tree) Commit(w *Writes, r *Reads) error {
	if r == nil {
		r = &Reads{}
	}
	if err := t.checkWrites(w); err != nil {
		return err
	}
	if err := checkReads(r); err != nil {
		return err
	}
	if err := t.writable(nil, nil); err != nil || len(w.Erase)+len(w.Ops) == 0 {
		return err
	}
	c := &commit{t: t, w: w, r: r, pages: make(map[int][][]byte)}
	for i := range w.Ops {
		if op := &w.Ops[i]; op.Kind == OpSet && len(op.Value) > t.inlineMax {
			c.pages[i] = t.chunkPages(op.Value)
		}
	}
	result, err := c.run()
	switch {
	case err == ErrConflict:
		t.metrics.conflicts.Add(1)
		return err
	case err != nil:
		return err
	case result.Outcome != pagecache.Done:
		return t.waitForRead() // there was nothing to do
	}
	paths.Hit(paths.BatchCommit)
	c.tend()
	return t.wait(result.LSN)
}

// DeleteRange removes all keys in [lo, hi) at one moment. A nil hi is an open end.
// It costs one small delta per leaf, and leaves that lie wholly in the range are
// not read.
func (t *Tree) DeleteRange(lo, hi []byte) error {
	r := Range{lo, hi}
	if r.empty() {
		return t.writable(nil, nil)
	}
	return t.Commit(&Writes{Erase: []Range{r}}, nil)
}

// Apply is Commit of ops.
func (t *Tree) Apply(ops []Op) error { return t.Commit(&Writes{Ops: ops}, nil) }

// A commit is a Commit under way.
type commit struct {
	t     *Tree
	w     *Writes
	r     *Reads
	pages map[int][][]byte // chunk pages of the large values, by op
	lists map[int][]byte   // and the lists that name them

	scouted []scoutedLeaf // in key order
	guesses guesses
	written []writtenLeaf
	changes []change
	appends int
	bytes   int // of them

	copies []byte // fences and deltas
}

// room returns copies with room for n bytes more. Blocks that are full stay where they
// are.
func (c *commit) room(n int) []byte {
	if cap(c.copies)-len(c.copies) < n {
		c.copies = make([]byte, 0, max(n, min(2*cap(c.copies), copiesBytesMax), copiesBytesMin))
	}
	return c.copies
}

// keep returns what was appended to room as b.
func (c *commit) keep(b []byte) []byte {
	from := len(c.copies)
	c.copies = b
	return b[from:len(b):len(b)]
}

const (
	copiesBytesMin = 1 << 10
	copiesBytesMax = 256 << 10
)

// A scoutedLeaf is a leaf as it was when it was last seen. While its page version
// is the same, so are its fences, and so is what it says of the reads.
type scoutedLeaf struct {
	start   []byte // the key for which it was visited
	pid     PID
	version uint64
	hi      []byte // nil if last, not empty
	last    bool
	valid   bool // its share of the reads is
}

// A writtenLeaf is what tend looks after.
type writtenLeaf struct {
	pid    PID
	absent bool
	erased bool // much of it
	filled bool // ops wrote to it
	due    bool // it may have many deltas
}

// commitTriesMax bounds how often a commit starts again. Each time a leaf was both
// changed and evicted between scouting and acquiring.
const commitTriesMax = 1000

func (c *commit) run() (pagecache.Result, error) {
	for try := 0; ; try++ {
		if try > 0 || len(c.w.Erase) > 0 {
			if err := c.scout(); err != nil {
				return pagecache.Result{}, err
			}
		}
		yield(yieldCommitScouted)
		r, absent, err := c.try()
		if absent == 0 || err != nil {
			return r, err
		}
		if err := c.t.load(absent, false); err != nil {
			return r, err
		}
		c.t.metrics.batchRestarts.Add(1)
		if try == commitTriesMax {
			return r, fmt.Errorf("tree: commit of %d operations does not fit the cache", len(c.w.Ops))
		}
	}
}

// scout visits the leaves and notes their fences. Those that are not in memory
// are loaded only if their fences do not follow from the parent, or if their
// newest stamp does not tell that the reads are valid.
func (c *commit) scout() error {
	c.scouted, c.copies = c.scouted[:0], c.copies[:0]
	for x := (cursor{}); ; {
		key, ok := c.next(&x)
		if !ok {
			return nil
		}
		x.at = key
		to, err := c.scoutLeaf(key, x)
		if err != nil {
			return err
		}
		x = to
	}
}

func (c *commit) scoutLeaf(key []byte, x cursor) (to cursor, err error) {
	for {
		leaf, s, absent, moved, err := c.see(key, x)
		if err != nil {
			return x, err
		}
		if absent == 0 {
			c.t.finish(moved)
			c.scouted = append(c.scouted, leaf)
			return s.to, nil
		}
		if err := c.t.load(absent, false); err != nil {
			return x, err
		}
	}
}

// see looks at the leaf of key. absent is a page that has to be loaded first.
func (c *commit) see(key []byte, x cursor) (leaf scoutedLeaf, s share, absent, moved PID, err error) {
	g := c.t.cache.Pin()
	defer g.Unpin()
	p, err := c.t.descend(g, 0, &seek{key: key}, 0)
	if err != nil {
		return leaf, s, 0, 0, err
	}
	leaf = scoutedLeaf{start: key, pid: p.view.PID(), version: p.view.Version()}
	if p.absent == 0 {
		if leaf.last = p.node.isLast(); !leaf.last {
			leaf.hi = c.keep(append(c.room(len(p.node.hi())), p.node.hi()...))
		}
	} else {
		if halfDoneHook != nil || !c.t.routed(g, &p) {
			return leaf, s, p.absent, 0, nil
		}
		leaf.hi, leaf.last = highFence(p.above, key)
	}
	s = c.share(x, leaf.hi, leaf.last)
	switch verdict, err := c.validate(p.view, &s); {
	case err != nil:
		return leaf, s, 0, 0, err
	case verdict == verdictConflict:
		return leaf, s, 0, 0, ErrConflict
	case verdict == verdictValid:
		leaf.valid = true
	case p.absent != 0:
		return leaf, s, p.absent, 0, nil
	}
	return leaf, s, 0, p.moved, nil
}

// highFence returns the high fence of the child for key of a resident inner node
// that lacks no child: the next separator, or its own fence.
func highFence(v pagecache.View, key []byte) (hi []byte, last bool) {
	n, err := asNode(v.Base())
	if err != nil {
		return nil, false
	}
	i, equal := n.search(key)
	if equal {
		i++
	}
	if i < n.count() {
		hi = n.appendKey([]byte{}, i)
	} else {
		hi, last = bytes.Clone(n.hi()), n.isLast()
	}
	for d := v.Newest(); d.Valid(); d = d.Older() {
		x := delta(d.Data())
		i, equal, ok := x.search(key)
		if equal {
			i++
		}
		if !ok || i >= x.count() {
			continue
		}
		if s, ok := x.at(i); ok && (last || bytes.Compare(s.key, hi) < 0) {
			hi, last = bytes.Clone(s.key), false
		}
	}
	return hi, last
}

// try acquires the leaves, adds the changes and commits. absent is a page that has
// to be loaded first. Without a Result and an error there was nothing to write.
func (c *commit) try() (r pagecache.Result, absent PID, err error) {
	u := c.t.cache.Begin()
	open := true
	defer func() {
		if open {
			u.Discard()
		}
	}()
	if err := c.allocate(u); err != nil {
		return r, 0, err
	}
	c.written, c.appends, c.guesses = c.written[:0], 0, guesses{}
	x, hint := cursor{}, 0
	for {
		key, ok := c.next(&x)
		if !ok {
			break
		}
		// A range that goes on from the leaf before goes on at this one's fence.
		fromFence := x.at != nil && bytes.Equal(key, x.at)
		x.at = key
		var seen scoutedLeaf
		if len(c.scouted) == 0 {
			seen.pid = c.guess(x.op)
		} else {
			for hint+1 < len(c.scouted) && bytes.Compare(c.scouted[hint+1].start, key) <= 0 {
				hint++
			}
			seen = c.scouted[hint]
		}
		o, absent, err := c.acquire(u, &seen, key, x)
		if err != nil || absent != 0 {
			return r, absent, err
		}
		yield(yieldBatchOwned)
		c.append(u, &o, fromFence)
		x = o.share.to
	}
	if c.appends == 0 {
		return r, 0, nil
	}
	yield(yieldCommitOwned)
	open = false
	r, err = u.Commit()
	return r, 0, err
}

// allocate adds the chunk pages of the large values to u.
func (c *commit) allocate(u *pagecache.Update) error {
	c.lists = make(map[int][]byte, len(c.pages))
	for i, pages := range c.pages {
		list, err := c.t.allocateChunks(u, len(c.w.Ops[i].Value), pages)
		if err != nil {
			return err
		}
		c.lists[i] = list
	}
	return nil
}

// An ownedLeaf is a leaf whose writer bit the commit holds.
type ownedLeaf struct {
	view  pagecache.View
	node  node // nil if the leaf is not in memory
	share share
}

// leafOf returns the page where the way to the leaf of key begins: the scouted one
// if that is as it was, the guessed one if it is the leaf, else where the walk from
// the root comes to. It is never left of a leaf that the commit holds, so that nobody
// waits in the wrong order (T6): a walk may end at the left part of a split whose
// separators are not there yet, and a leaf that is held is not being split. absent is
// a page that has to be loaded first.
//
// A scouted PID may have been freed and used again since. One that is found under
// the Update's guard, which the caller holds, may be freed and not used again.
func (c *commit) leafOf(seen *scoutedLeaf, key []byte) (pid, absent PID, err error) {
	g := c.t.cache.Pin()
	defer g.Unpin()
	if seen.pid != 0 {
		v, err := c.t.cache.View(g, seen.pid)
		if err == nil && seen.holds(v, key) {
			return seen.pid, 0, nil
		}
	}
	p, err := c.t.descend(g, 0, &seek{key: key}, 0)
	switch {
	case err != nil:
		return 0, 0, err
	case p.absent != 0 && p.level != 0:
		return 0, p.absent, nil
	}
	return p.view.PID(), 0, nil
}

// holds reports whether the leaf, as v shows it, is that of key.
func (s *scoutedLeaf) holds(v pagecache.View, key []byte) bool {
	if s.version == 0 { // a guess
		n, err := asNode(v.Base())
		return err == nil && n.level() == 0 && n.contains(key)
	}
	return v.Version() == s.version && bytes.Compare(s.start, key) <= 0 && (s.last || bytes.Compare(key, s.hi) < 0)
}

// guesses are leaves of ops that come next, as an inner node named them: not to walk to
// each from the root, and to have all of them brought at once from memory, where each
// walk would wait for one.
type guesses struct {
	from, to int // ops
	pids     [guessesMax]PID
}

const (
	guessesMax = 16
	guessesMin = 4 // fewer are not worth a walk of their own
)

// guess returns the leaf that op i may belong to, or 0. The caller holds the guard of
// the Update.
func (c *commit) guess(i int) PID {
	k := &c.guesses
	if i >= k.to && c.r.empty() {
		c.lookAhead(i)
	}
	if i < k.from || i >= k.to {
		return 0
	}
	return k.pids[i-k.from]
}

func (c *commit) lookAhead(i int) {
	k := &c.guesses
	ops := c.w.Ops[i:min(len(c.w.Ops), i+guessesMax)]
	if k.from, k.to = i, i; len(ops) < guessesMin {
		return
	}
	g := c.t.cache.Pin()
	defer g.Unpin()
	s := seek{key: ops[0].Key}
	p, err := c.t.descend(g, 0, &s, 1)
	if err != nil || p.absent != 0 || p.node == nil {
		k.to += len(ops) // none, until then
		clear(k.pids[:])
		return
	}
	for n := range ops {
		if s.key = ops[n].Key; p.node.beyond(s.key) {
			break
		}
		k.pids[n] = s.child(p.view, p.node)
		k.to++
		c.t.cache.Prefetch(k.pids[n], 1)
	}
	for _, pid := range k.pids[:k.to-k.from] {
		c.t.cache.PrefetchBase(pid, leafLines)
	}
}

// acquire takes the leaf of key and validates its share of the reads. absent is a
// page that has to be loaded first.
func (c *commit) acquire(u *pagecache.Update, seen *scoutedLeaf, key []byte, x cursor) (o ownedLeaf, absent PID, err error) {
	pid, absent, err := c.leafOf(seen, key)
	if err != nil || absent != 0 {
		return o, absent, err
	}
	for {
		p, held, err := c.t.own(u, pid, &seek{key: key}, 0)
		if err == errStale {
			if pid, absent, err = c.leafOf(seen, key); err == nil && absent == 0 {
				continue
			}
			return o, absent, err
		}
		if err != nil {
			return o, 0, err
		}
		o.view, o.node = p.view, p.node
		asSeen := seen.version != 0 && p.view.PID() == seen.pid && p.view.Version() == seen.version
		switch {
		case p.absent == 0:
			o.share = c.share(x, p.node.hi(), p.node.isLast())
		case asSeen:
			o.share = c.share(x, seen.hi, seen.last)
		default:
			hi, last, instead, absent := c.routeOwned(p.absent, key)
			if absent != 0 {
				return o, absent, nil
			}
			if instead != 0 {
				if !held {
					u.Release(p.absent)
				}
				pid = instead
				continue
			}
			o.share = c.share(x, hi, last)
		}
		if asSeen && seen.valid {
			return o, 0, nil
		}
		switch verdict, err := c.validate(p.view, &o.share); {
		case err != nil || verdict == verdictValid:
			return o, 0, err
		case verdict == verdictConflict:
			return o, 0, ErrConflict
		}
		return o, p.view.PID(), nil
	}
}

// routeOwned finds in the parent the high fence of a leaf that is owned by the
// commit and not in memory, without loading anything. A split of the leaf that came
// before held the parent's writer bit until its separators were there; so a parent
// that nobody owns has them, and none can follow. instead is the leaf of key if
// that is another one, right of it; absent a page that would have to be loaded.
//
// Waiting for the parent's owner is waiting upwards (T6): it takes bits above only.
func (c *commit) routeOwned(pid PID, key []byte) (hi []byte, last bool, instead, absent PID) {
	if halfDoneHook != nil {
		return nil, false, 0, pid
	}
	for range routeTriesMax {
		hi, last, instead, absent, owned := c.tryRouteOwned(pid, key)
		if !owned {
			return hi, last, instead, absent
		}
		spin()
	}
	return nil, false, 0, pid
}

// routeTriesMax bounds the wait for a parent's owner before the commit starts again.
const routeTriesMax = 100

func (c *commit) tryRouteOwned(pid PID, key []byte) (hi []byte, last bool, instead, absent PID, owned bool) {
	g := c.t.cache.Pin()
	defer g.Unpin()
	p, err := c.t.descend(g, 0, &seek{key: key}, 0)
	switch {
	case err != nil:
		return nil, false, 0, pid, false
	case p.absent != 0 && p.above.PID() == 0:
		return nil, false, 0, p.absent, false // an inner node, or a leaf reached from its left
	case p.view.PID() != pid:
		return nil, false, p.view.PID(), 0, false
	case p.absent == 0: // it is lent to readers, and may have been reached from its left
		return bytes.Clone(p.node.hi()), p.node.isLast(), 0, 0, false
	case p.above.Owned():
		return nil, false, 0, 0, true
	}
	hi, last = highFence(p.above, key)
	return hi, last, 0, 0, false
}

// commitDeltaBytesMax bounds one delta that has more than one change; the log's
// largest fragment does so too.
const commitDeltaBytesMax = 64 << 10

// append adds the share's writes to the leaf: first what it erases, then its ops
// in as few deltas as their size allows.
func (c *commit) append(u *pagecache.Update, o *ownedLeaf, fromFence bool) {
	if !o.share.writes() {
		return
	}
	w := writtenLeaf{pid: o.view.PID(), absent: o.node == nil, filled: len(o.share.ops) > 0}
	appends, bytes := c.appends, c.bytes
	for i, r := range o.share.erase {
		erased, much := c.appendErase(u, o, r, fromFence && i == 0)
		if erased {
			c.t.metrics.erasedLeaves.Add(1)
		}
		w.erased = w.erased || much
	}
	c.appendOps(u, o.view, o.share.from.op, o.share.to.op)
	t := c.t
	w.due = len(o.share.erase) > 0 || o.view.Deltas()+c.appends-appends >= t.options.Cache.MergeDeltas ||
		o.view.Size()-len(o.view.Base())+c.bytes-bytes >= t.options.MaxNodeBytes/2
	c.written = append(c.written, w)
}

// appendErase clips the range to the leaf. It reports whether there was anything
// to erase, and whether it was much of the leaf.
func (c *commit) appendErase(u *pagecache.Update, o *ownedLeaf, r Range, fromFence bool) (erased, much bool) {
	loOpen := len(r.Lo) == 0 || fromFence && bytes.Compare(r.Lo, o.share.from.at) < 0
	hiOpen := r.Hi == nil || o.share.to.at != nil && bytes.Compare(r.Hi, o.share.to.at) >= 0
	much = loOpen && hiOpen
	if o.node != nil {
		loOpen = loOpen || bytes.Compare(r.Lo, o.node.lo()) <= 0
		e := erasure{lo: r.Lo, hi: r.Hi, loOpen: loOpen, hiOpen: hiOpen}
		s := e.within(o.node)
		if s.from == s.to && o.view.Deltas() == 0 {
			return false, false
		}
		much = loOpen && hiOpen || 2*(s.to-s.from) >= o.node.count()
	}
	u.Append(o.view, appendErase(nil, r.Lo, r.Hi, loOpen, hiOpen), 0)
	c.appends++
	return true, much
}

// appendOps adds ops [from, to).
func (c *commit) appendOps(u *pagecache.Update, v pagecache.View, from, to int) {
	limit := min(commitDeltaBytesMax, c.t.cache.MaxFragment())
	for from < to {
		size := runHeaderBytes
		c.changes = c.changes[:0]
		for ; from < to; from++ {
			x := c.change(from)
			size += 4 + changeBytes(x.key, x.value)
			if len(c.changes) > 0 && size > limit {
				break
			}
			c.appendLongMerge(u, v, from) // once: an op that does not fit comes again
			c.changes = append(c.changes, x)
		}
		hint := uint16(0)
		if len(c.changes) == 1 {
			hint = hintOf(c.changes[0].key)
		}
		delta := c.keep(appendChanges(c.room(size), kindLeafOne, c.changes))
		u.Append(v, delta, hint)
		c.appends++
		c.bytes += len(delta)
	}
}

// appendLongMerge appends, each list in a delta of its own, all operands of op i but
// the last list of what fits one delta; that one change gives.
func (c *commit) appendLongMerge(u *pagecache.Update, v pagecache.View, i int) {
	op := &c.w.Ops[i]
	if op.Kind != OpMerge {
		return
	}
	lists, _ := c.splitOperands(op.Operands)
	for _, list := range lists {
		x := change{key: op.Key, value: appendOperands(nil, list), flags: entryOperand}
		delta := appendChanges(nil, kindLeafOne, []change{x})
		u.Append(v, delta, hintOf(op.Key))
		c.appends++
		c.bytes += len(delta)
	}
}

// splitOperands cuts operands into lists of what fits one delta; rest is the last.
func (c *commit) splitOperands(operands [][]byte) (lists [][][]byte, rest [][]byte) {
	limit, size, from := c.t.operandMax(), 0, 0
	for i, x := range operands {
		if n := len(x) + operandHeaderMax; i > from && size+n > limit {
			lists = append(lists, operands[from:i])
			from, size = i, n
		} else {
			size += n
		}
	}
	return lists, operands[from:]
}

// operandHeaderMax is the most that a list adds to an operand, in bytes.
const operandHeaderMax = 5

func (c *commit) change(i int) change {
	op := &c.w.Ops[i]
	switch list, large := c.lists[i]; {
	case op.Kind == OpDelete:
		return change{key: op.Key, flags: entryTombstone}
	case op.Kind == OpMerge:
		_, rest := c.splitOperands(op.Operands)
		return change{key: op.Key, value: appendOperands(nil, rest), flags: entryOperand}
	case large:
		return change{key: op.Key, value: list, flags: entryIndirect}
	}
	return change{key: op.Key, value: op.Value}
}

// tendErasedMax is how many leaves a commit shrinks itself before it leaves them
// to the shrinker.
const tendErasedMax = 8

// tend looks after the leaves that were written.
func (c *commit) tend() {
	t := c.t
	erased, absent := 0, false
	for _, w := range c.written {
		if w.erased {
			erased++
			absent = absent || w.absent
		}
	}
	oldest, _ := t.cache.OldestMoment()
	now := erased <= tendErasedMax && !absent && oldest >= t.cache.Clock()
	for _, w := range c.written {
		if w.erased && now {
			t.shrink(w.pid)
		}
		switch {
		case w.erased && !w.filled:
		case w.absent:
			t.tendUnread(w.pid)
		case w.due: // what was erased may be too large by what came instead
			t.tendIfDue(w.pid)
		}
	}
	if erased > 0 && !now {
		t.shrinker.queue(c.w.Erase)
	}
}
