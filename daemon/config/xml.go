package config

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/net/html/charset"
)

const (
	maxDocument = 64 << 20 // bytes of one configuration file, after unzipping
	maxDepth    = 64       // nesting of elements
)

// Facts are what the conditions of an XML file are tested against (config.md 5.4). An
// empty fact is unknown and makes every test of it false.
type Facts struct {
	Groups          []string // lower case; tests compare them exactly
	Host            string   // org.lockss.platform.fqdn
	DaemonVersion   string   // the 1.x version that we claim, as "1.74.0"
	PlatformName    string
	PlatformVersion string
}

// element is one element of a configuration file.
type element struct {
	name     string
	line     int
	attrs    map[string]string
	text     strings.Builder
	children []*element
}

// XMLError is a fault that rejects a whole file.
type XMLError struct {
	Line int
	Msg  string
}

func (e *XMLError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Msg) }

var elements = map[string]bool{"lockss-config": true, "property": true, "value": true, "list": true,
	"if": true, "then": true, "else": true, "and": true, "or": true, "not": true, "test": true}

// ParseXML reads a configuration file in the property-server format and gives its flat
// parameters (config.md 5.3 and 5.4). Conditions nest: a property below a false outer
// condition is never set. The file is rejected as a whole with an *XMLError.
func ParseXML(b []byte, facts Facts) (map[string]string, error) {
	root, err := parseTree(b)
	if err != nil {
		return nil, err
	}
	e := evaluator{facts: facts, values: map[string]string{}, titles: map[string]int{}}
	if err := e.children(root, nil, true, nil); err != nil {
		return nil, err
	}
	return e.values, nil
}

func parseTree(b []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.Strict = true
	d.CharsetReader = charset.NewReaderLabel
	top := &element{}
	stack := []*element{top}
	for {
		tok, err := d.Token()
		line, _ := d.InputPos()
		if errors.Is(err, io.EOF) {
			if len(top.children) == 0 {
				return nil, &XMLError{line, "no element in the file"}
			}
			return top, nil
		}
		if err != nil {
			return nil, &XMLError{line, err.Error()}
		}
		cur := stack[len(stack)-1]
		switch t := tok.(type) {
		case xml.StartElement:
			if !elements[t.Name.Local] || t.Name.Space != "" {
				return nil, &XMLError{line, fmt.Sprintf("unknown element <%s>", t.Name.Local)}
			}
			if len(stack) > maxDepth {
				return nil, &XMLError{line, fmt.Sprintf("elements nested deeper than %d", maxDepth)}
			}
			c := &element{name: t.Name.Local, line: line, attrs: map[string]string{}}
			for _, a := range t.Attr {
				c.attrs[a.Name.Local] = a.Value
			}
			cur.children = append(cur.children, c)
			stack = append(stack, c)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			cur.text.Write(t)
		}
	}
}

type evaluator struct {
	facts  Facts
	values map[string]string
	titles map[string]int // how often an id stood directly below org.lockss.title
}

// children evaluates what stands below n. path is the open property names; list, when not
// nil, collects the values of an open list.
func (e *evaluator) children(n *element, path []string, active bool, list *[]string) error {
	for _, c := range n.children {
		if err := e.one(c, path, active, list); err != nil {
			return err
		}
	}
	return nil
}

func (e *evaluator) one(c *element, path []string, active bool, list *[]string) error {
	switch c.name {
	case "lockss-config":
		return e.children(c, path, active, list)
	case "property":
		name, ok := c.attrs["name"]
		if !ok || name == "" {
			return &XMLError{c.line, "<property> without a name"}
		}
		if strings.Join(path, ".") == "org.lockss.title" {
			// Two titles may have one id, which has no meaning; they must not be mixed
			// (titledb.md 1.1).
			if e.titles[name]++; e.titles[name] > 1 {
				name += "#" + strconv.Itoa(e.titles[name])
			}
		}
		path = append(path[:len(path):len(path)], name)
		if v, ok := c.attrs["value"]; ok && active {
			e.values[strings.Join(path, ".")] = v
		}
		return e.children(c, path, active, nil)
	case "value":
		if !active {
			return nil
		}
		text := strings.TrimSpace(c.text.String())
		if list != nil {
			*list = append(*list, text)
		} else if len(path) > 0 {
			e.values[strings.Join(path, ".")] = text
		}
		return nil
	case "list":
		var vals []string
		if err := e.children(c, path, active, &vals); err != nil || !active {
			return err
		}
		name := strings.Join(path, ".")
		joined := strings.Join(vals, ";")
		if strings.EqualFold(c.attrs["append"], "true") {
			old, ok := e.values[name]
			if !ok {
				return &XMLError{c.line, fmt.Sprintf("list appended to %s, which has no value yet", name)}
			}
			if old != "" && joined != "" {
				joined = old + ";" + joined
			} else {
				joined = old + joined
			}
		}
		e.values[name] = joined
		return nil
	case "if":
		return e.branch(c, path, active, list)
	case "then", "else":
		return &XMLError{c.line, "<" + c.name + "> outside <if>"}
	default:
		return &XMLError{c.line, "<" + c.name + "> outside a condition"}
	}
}

// branch evaluates an <if>: tests before <then> are ANDed; what stands after a branch
// belongs to the branch that closed last.
func (e *evaluator) branch(n *element, path []string, active bool, list *[]string) error {
	cond, err := e.attributes(n)
	if err != nil {
		return err
	}
	then := false
	here := func() bool { return active && cond }
	current := here
	for _, c := range n.children {
		switch c.name {
		case "test", "and", "or", "not":
			v, err := e.condition(c)
			if err != nil {
				return err
			}
			if !then {
				cond = cond && v
			}
		case "then":
			then = true
			current = here
			if err := e.children(c, path, current(), list); err != nil {
				return err
			}
		case "else":
			if !then {
				return &XMLError{c.line, "<else> without a <then> before it"}
			}
			current = func() bool { return active && !cond }
			if err := e.children(c, path, current(), list); err != nil {
				return err
			}
		default:
			if err := e.one(c, path, current(), list); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *evaluator) condition(n *element) (bool, error) {
	if n.name == "test" {
		return e.attributes(n)
	}
	result := n.name != "or"
	for _, c := range n.children {
		switch c.name {
		case "test", "and", "or", "not":
		default:
			return false, &XMLError{c.line, fmt.Sprintf("<%s> inside <%s>", c.name, n.name)}
		}
		v, err := e.condition(c)
		if err != nil {
			return false, err
		}
		if n.name == "or" {
			result = result || v
		} else {
			result = result && v
		}
	}
	return result != (n.name == "not"), nil
}

// attributes gives the AND of the tests in n's attributes.
func (e *evaluator) attributes(n *element) (bool, error) {
	f := e.facts
	for _, kind := range []string{"daemonVersion", "platformVersion"} {
		_, exact := n.attrs[kind]
		_, lo := n.attrs[kind+"Min"]
		_, hi := n.attrs[kind+"Max"]
		if exact && (lo || hi) {
			return false, &XMLError{n.line, kind + " together with " + kind + "Min or " + kind + "Max"}
		}
	}
	result := true
	for name, want := range n.attrs {
		var v bool
		var err error
		switch name {
		case "group":
			for _, g := range f.Groups {
				v = v || g == want
			}
		case "hostname":
			v = f.Host != "" && strings.EqualFold(f.Host, want)
		case "platformName":
			v = f.PlatformName != "" && strings.EqualFold(f.PlatformName, want)
		case "daemonVersion", "daemonVersionMin", "daemonVersionMax":
			v, err = compareVersion(strings.TrimPrefix(name, "daemonVersion"), f.DaemonVersion, want, daemonVersion)
		case "platformVersion", "platformVersionMin", "platformVersionMax":
			v, err = compareVersion(strings.TrimPrefix(name, "platformVersion"), f.PlatformVersion, want, platformVersion)
		}
		if err != nil {
			return false, &XMLError{n.line, err.Error()}
		}
		result = result && v
	}
	return result, nil
}

func compareVersion(bound, own, want string, parse func(string) (int, error)) (bool, error) {
	w, err := parse(want)
	if err != nil {
		return false, err
	}
	o, err := parse(own)
	if err != nil {
		return false, nil // unknown own version: every test is false
	}
	switch bound {
	case "Min":
		return o >= w, nil
	case "Max":
		return o <= w, nil
	}
	return o == w, nil
}

// daemonVersion is major*10^6 + minor*10^3 + build of "1.74.0"; what follows a '-' in a
// part is ignored.
func daemonVersion(s string) (int, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return 0, fmt.Errorf("daemon version %q is not of the form 1.74.0", s)
	}
	n := 0
	for _, p := range parts {
		p, _, _ = strings.Cut(p, "-")
		v, err := strconv.Atoi(p)
		if err != nil || len(p) > 3 || v < 0 {
			return 0, fmt.Errorf("daemon version %q is not of the form 1.74.0", s)
		}
		n = n*1000 + v
	}
	return n, nil
}

func platformVersion(s string) (int, error) {
	s, _, _ = strings.Cut(s, "-")
	v, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("platform version %q is not a number", s)
	}
	return v, nil
}
