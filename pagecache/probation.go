package pagecache

import "sync"

// Pages that were brought into memory are on probation: each stands in a queue, and
// the evictor takes from the queues before it moves its hand. A page that was viewed
// again by the time it comes out is kept, and from then on the hand decides; any
// other goes. So what is read once passes through a small part of the cache, and what
// is read again and again is not touched while there is such traffic.
//
// What a scan loads has a queue of its own, of a few pages: it is not expected to be
// read again at all, and must not shorten the time in which other pages can be.
//
// A queue may be too short for what is read again, but not soon. So a page that is
// loaded again before the hand has gone round since it failed is not put to the proof
// a second time.
//
// While a page is in a queue its mark says so, and the hand passes it over.
type probation struct {
	mu     sync.Mutex
	queues [2]probationQueue // Guarded by mu. By loadReason.
}

// A loadReason says why a page was brought into memory.
type loadReason uint8

const (
	loadedToRead loadReason = iota
	loadedToScan
)

// Shares of CacheSize in percent that a queue may have before pages leave it, by
// loadReason.
var probationPercent = [2]int64{10, 1}

// A probationQueue is a ring of pages, oldest first.
type probationQueue struct {
	ring  []probationer
	first int
	count int
	bytes int64
}

type probationer struct {
	pid   PID
	bytes int64
}

// enter puts a page that was just loaded into its queue.
func (p *probation) enter(pid PID, bytes int64, why loadReason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := &p.queues[why]
	if q.count == len(q.ring) {
		q.grow()
	}
	q.ring[(q.first+q.count)%len(q.ring)] = probationer{pid, bytes}
	q.count++
	q.bytes += bytes
}

func (q *probationQueue) grow() {
	ring := make([]probationer, max(64, 2*len(q.ring)))
	for i := range q.count {
		ring[i] = q.ring[(q.first+i)%len(q.ring)]
	}
	q.ring, q.first = ring, 0
}

// leave takes the oldest page of a queue that exceeds its share of the budget; with
// any, of one that has a page.
func (p *probation) leave(budget int64, any bool) (pid PID, why loadReason, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.queues) - 1; i >= 0; i-- {
		q := &p.queues[i]
		if q.count == 0 || !any && q.bytes <= budget*probationPercent[i]/100 {
			continue
		}
		x := q.ring[q.first]
		q.first = (q.first + 1) % len(q.ring)
		q.count--
		q.bytes -= x.bytes
		return x.pid, loadReason(i), true
	}
	return 0, 0, false
}
