package main

import (
	"bytes"
	"fmt"
	"math"
)

var colours = map[string]string{
	"pulk": "#0b7285", "bbolt": "#f08c00", "bbolt-batch": "#e8590c", "pebble": "#868e96", "badger": "#9c36b5", "lmdb": "#2b8a3e",
}

// svg draws a group of bars for each workload: the rate of each store over that of
// the best other one in Go, on a logarithmic scale. Bars to the right of the line
// are faster than that.
func (s summary) svg() []byte {
	const (
		left, right, bar, gap = 170, 60, 7, 8
		width, top            = 900, 60
		least, most           = 0.01, 20.0
	)
	x := func(v float64) float64 {
		v = min(max(v, least), most)
		return left + (width-left-right)*math.Log(v/least)/math.Log(most/least)
	}
	var b bytes.Buffer
	y := float64(top)
	for _, l := range s.lines {
		best := l.bestPeer()
		if best == 0 {
			continue
		}
		begin := y
		for _, store := range s.stores {
			m, ok := l.of[store]
			if !ok {
				continue
			}
			v := m.Rate / best
			fmt.Fprintf(&b, `<rect x="%d" y="%.0f" width="%.1f" height="%d" fill="%s"><title>%s, %s: %s</title></rect>`+"\n",
				left, y, max(x(v)-left, 1), bar, colours[store], l.name(), store, l.rate(store))
			if store == "pulk" {
				fmt.Fprintf(&b, `<text x="%.1f" y="%.0f" font-weight="bold">%.2g</text>`+"\n", x(v)+4, y+bar, v)
			}
			y += bar
		}
		fmt.Fprintf(&b, `<text x="%d" y="%.0f" text-anchor="end">%s</text>`+"\n", left-6, (begin+y)/2+4, l.name())
		y += gap
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" font-family="sans-serif" font-size="11">`+"\n", width, y+30)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	for i, store := range s.stores {
		fmt.Fprintf(&out, `<rect x="%d" y="14" width="12" height="12" fill="%s"/><text x="%d" y="24">%s</text>`+"\n", left+i*100, colours[store], left+i*100+16, store)
	}
	for _, v := range []float64{0.01, 0.1, 0.5, 1, 2, 5, 10} {
		stroke := "#dee2e6"
		if v == 1 {
			stroke = "#212529"
		}
		fmt.Fprintf(&out, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%.0f" stroke="%s"/><text x="%.1f" y="%d" text-anchor="middle">%gx</text>`+"\n", x(v), x(v), top-8, y, stroke, x(v), top-12, v)
	}
	out.Write(b.Bytes())
	fmt.Fprintf(&out, `<text x="%d" y="%.0f">rate, over that of the best other store in Go; logarithmic</text>`+"\n</svg>\n", left, y+16)
	return out.Bytes()
}
