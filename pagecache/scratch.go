package pagecache

import (
	"sync"

	"github.com/pulkdb/db/log"
)

// A scratch is working space of a consolidation or a load.
type scratch struct {
	data      []byte
	merging   Merging
	nodes     []*deltaNode
	positions []log.Position
}

// scratchBytesMax is the largest buffer that a pool keeps.
const scratchBytesMax = 1 << 20

type scratchPool struct{ pool sync.Pool }

func (p *scratchPool) get() *scratch {
	if s, ok := p.pool.Get().(*scratch); ok {
		return s
	}
	return &scratch{data: make([]byte, 0, 16<<10)}
}

func (p *scratchPool) put(s *scratch) {
	if cap(s.data) > scratchBytesMax {
		return
	}
	clear(s.merging.Fragments)
	clear(s.nodes)
	p.pool.Put(s)
}
