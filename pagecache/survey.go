package pagecache

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pulkdb/db/log"
)

// Which segments to clean is decided by what that costs and gains. A page is moved
// as a whole: a segment in which 1% is live, deltas of a thousand pages, costs a
// thousand pages to be written, and so its live bytes say little. The cost of a
// segment is the bytes of all pages that have anything in it. The gain is what is
// dead in it, and what moving those pages makes dead elsewhere: the deltas
// that are merged into them. A survey goes through the table and adds this up for all
// segments; the best ones are cleaned until that much was written that it is time for
// the next, a surveyShare-th part of the space. It looks at a sample of the pages, every
// so many-th: one costs a microsecond or two, with its deltas, and looking at all of
// them took a third of the processor time of writers to a store in memory.
//
// Under uniform updates this comes down to the oldest bases first: pages that were
// not written for longest have the most deltas, and those die with them, so that
// deltas hardly ever have to be moved on their own account.
type victim struct {
	base  LSN
	size  int64
	dead  int64
	live  int64 // at least so much is to be written
	cost  int64 // bytes of the pages to be written, about
	gain  int64 // bytes of their deltas, wherever those are, about
	score float64
}

const (
	surveyShare = 32
	surveyPages = 64 // looked at under one guard
	// So many pages are looked at at least, if there are, and so many for each segment: a
	// segment of bases has two hundred.
	surveySampleMin     = 4 << 10
	surveySegmentSample = 64
	victimsMin          = 4
	segmentDeadMin      = 50 // a segment with less than one 50th of it dead, and as little to gain, is left alone
)

// survey finds the segments that are best cleaned, the best one last.
func (c *Cache) survey(segments []log.SegmentInfo) {
	k := &c.clean
	k.surveyed = c.log.Tail(log.Fresh)
	k.victims = c.bestVictims(segments)
	k.reserve, k.barren = 0, surveyMark{}
	if n := len(k.victims); n > 0 {
		k.reserve = k.victims[n-1].cost
	} else {
		k.barren = surveyMark{c.logged(), time.Now()}
	}
}

// isRefused reports whether the segment could not be emptied and is not to be tried now.
func (k *cleaner) isRefused(base LSN) bool {
	r, ok := k.refused[base]
	return ok && (r.corrupt || time.Now().Before(r.until))
}

func (c *Cache) bestVictims(segments []log.SegmentInfo) []victim {
	tail := c.log.Tail(log.Fresh)
	all := make([]victim, len(segments))
	for i, s := range segments {
		all[i] = victim{base: s.Base, size: c.sizeOf(s)}
		// What is moved takes a record's header again.
		all[i].live = max(s.Live, 0) + max(s.Pieces, 0)*recordOverhead
		all[i].dead = all[i].size - all[i].live
	}
	stride := PID(max(1, int(c.pids.max())/max(surveySampleMin, surveySegmentSample*len(segments))))
	c.surveyPages(all, stride)
	candidates := all[:0]
	for i, v := range all {
		s := segments[i]
		v.cost = max(v.cost*int64(stride), v.live)
		v.gain *= int64(stride)
		if s.End == 0 || s.Live <= 0 || s.End > tail || c.clean.isRefused(s.Base) || (v.dead+v.gain)*segmentDeadMin < v.size {
			continue
		}
		v.score = (float64(v.dead) + float64(v.gain)) / float64(v.cost+1)
		candidates = append(candidates, v)
	}
	slices.SortFunc(candidates, func(a, b victim) int { return cmp.Compare(a.score, b.score) })
	n := max(victimsMin, len(segments)/surveyShare)
	return slices.Clone(candidates[max(0, len(candidates)-n):])
}

// surveyPages adds every stride-th page to the segments that it has something in.
func (c *Cache) surveyPages(all []victim, stride PID) {
	last := c.pids.max()
	var seen []int
	for from := 1 + PID(rand.Uint64N(uint64(stride))); from <= last; from += surveyPages * stride {
		g := c.Pin()
		for pid := from; pid < from+surveyPages*stride && pid <= last; pid += stride {
			if slot := c.table.slot(pid); slot != nil {
				seen = c.surveyPage(slot.Load(), all, seen[:0])
			}
		}
		g.Unpin()
	}
}

// surveyPage adds a page to the segments that it has something in.
func (c *Cache) surveyPage(word uint64, all []victim, seen []int) []int {
	if word&slotRefMask == 0 {
		return seen
	}
	if c.headerAt(word).kind == nodeFree {
		p := c.freeAt(word).position()
		if i, ok := findVictim(all, c.log.SegmentOf(p.LSN)); ok && !p.IsZero() {
			all[i].cost += int64(p.Size) + recordOverhead
		}
		return seen
	}
	inLog := int64(0)
	visit := func(p log.Position) {
		inLog += int64(p.Size)
		base := c.log.SegmentOf(p.LSN)
		if k := len(seen); k > 0 && all[seen[k-1]].base == base {
			return
		}
		i, ok := findVictim(all, base)
		if ok && !slices.Contains(seen, i) {
			seen = append(seen, i)
		}
	}
	b := c.bottomOf(word)
	for i := range int(b.positions) {
		visit(b.position(i))
	}
	if c.headerAt(word).kind == nodeDelta {
		for d := c.deltaAt(word); d != nil; d = c.olderDelta(d) {
			visit(d.position())
		}
	}
	if b.positions == 0 {
		return seen
	}
	base := int64(b.position(0).Size)
	for _, i := range seen {
		all[i].cost += base
		all[i].gain += inLog - base
	}
	return seen
}

// recordOverhead is what a record takes in the log beside its updates, about.
const recordOverhead = 14

func findVictim(all []victim, base LSN) (int, bool) {
	return slices.BinarySearchFunc(all, base, func(v victim, base LSN) int { return cmp.Compare(v.base, base) })
}
