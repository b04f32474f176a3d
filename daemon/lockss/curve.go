package lockss

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Curve is a piecewise linear function (lcap-v3.md 11.4): linear between its points, constant
// outside. Where an x occurs twice the first y holds at x, the second just above it. Intervals
// count in milliseconds. The zero Curve has no points and is 0 everywhere.
type Curve struct{ points []point }

type point struct{ x, y float64 }

// ParseCurve reads "[x1,y1],[x2,y2],…", x not descending, numbers or intervals ("4d").
func ParseCurve(s string) (Curve, error) {
	var c Curve
	rest := strings.TrimSpace(s)
	for rest != "" {
		body, after, ok := strings.Cut(rest, "]")
		body = strings.TrimSpace(body)
		if !ok || !strings.HasPrefix(body, "[") {
			return Curve{}, fmt.Errorf("curve %q: want [x,y],[x,y],…", s)
		}
		xs, ys, ok := strings.Cut(body[1:], ",")
		if !ok {
			return Curve{}, fmt.Errorf("curve %q: %q is not [x,y]", s, body+"]")
		}
		x, err := parseCoordinate(xs)
		if err != nil {
			return Curve{}, fmt.Errorf("curve %q: %w", s, err)
		}
		y, err := parseCoordinate(ys)
		if err != nil {
			return Curve{}, fmt.Errorf("curve %q: %w", s, err)
		}
		if n := len(c.points); n > 0 && x < c.points[n-1].x {
			return Curve{}, fmt.Errorf("curve %q: x %s is below the one before", s, strings.TrimSpace(xs))
		}
		c.points = append(c.points, point{x, y})
		rest = strings.TrimSpace(after)
		if rest != "" {
			if rest, ok = strings.CutPrefix(rest, ","); !ok || strings.TrimSpace(rest) == "" {
				return Curve{}, fmt.Errorf("curve %q: want a comma between points", s)
			}
			rest = strings.TrimSpace(rest)
		}
	}
	if len(c.points) == 0 {
		return Curve{}, fmt.Errorf("curve %q has no points", s)
	}
	return c, nil
}

func parseCoordinate(s string) (float64, error) {
	s = strings.TrimSpace(s)
	if v, err := strconv.ParseFloat(s, 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
		return v, nil
	}
	d, err := ParseInterval(s)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number nor an interval", s)
	}
	return float64(d / time.Millisecond), nil
}

// At returns the value at x.
func (c Curve) At(x float64) float64 {
	n := len(c.points)
	if n == 0 {
		return 0
	}
	if x <= c.points[0].x {
		return c.points[0].y
	}
	for i := 1; i < n; i++ {
		if a, b := c.points[i-1], c.points[i]; x <= b.x && a.x < b.x {
			return (x-a.x)*((b.y-a.y)/(b.x-a.x)) + a.y
		}
	}
	return c.points[n-1].y
}
