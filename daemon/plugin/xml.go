package plugin

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of one definition file. The largest published ones have some 30 KiB.
const (
	maxDefinition = 2 << 20 // bytes
	maxElements   = 50000
	maxDepth      = 40
)

// The values of a definition: string, int64, float64, bool, list, *mapping, *object, none,
// inherit, or nil.
type (
	list    []any
	none    struct{} // <org.lockss.util.None/>: explicitly no such object
	inherit struct{} // <org.lockss.util.Default/>: the built-in default, whatever a parent says
)

// A mapping keeps the order of the file; a repeated key replaces the earlier one.
type mapping struct {
	keys   []string
	values map[string]any
}

func (m *mapping) set(k string, v any) {
	if m.values == nil {
		m.values = map[string]any{}
	}
	if _, ok := m.values[k]; !ok {
		m.keys = append(m.keys, k)
	}
	m.values[k] = v
}

func (m *mapping) get(k string) (any, bool) {
	v, ok := m.values[k]
	return v, ok
}

func (m *mapping) clone() *mapping {
	c := &mapping{}
	for _, k := range m.keys {
		c.set(k, m.values[k])
	}
	return c
}

func (m *mapping) remove(k string) {
	if _, ok := m.values[k]; !ok {
		return
	}
	delete(m.values, k)
	for i, x := range m.keys {
		if x == k {
			m.keys = append(m.keys[:i:i], m.keys[i+1:]...)
			return
		}
	}
}

// An object is an instance of a Java class, its fields as elements.
type object struct {
	class string
	el    *element
}

type element struct {
	name     string
	attr     map[string]string
	text     string
	children []*element
}

func (e *element) child(name string) *element {
	if e == nil {
		return nil
	}
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (e *element) field(name string) string {
	if c := e.child(name); c != nil {
		return c.text
	}
	return ""
}

// parseMap reads a definition file into its map. declared tells that the file begins with
// an XML declaration, which a classic node does not accept before <map>.
func parseMap(b []byte) (m *mapping, declared bool, err error) {
	root, err := parseXML(b)
	if err != nil {
		return nil, false, err
	}
	declared = bytes.HasPrefix(b, []byte("<?xml"))
	switch root.name {
	case "map":
		v, err := root.value()
		if err != nil {
			return nil, declared, err
		}
		return v.(*mapping), declared, nil
	case "Elements":
		m, err := castorMap(root)
		return m, false, err
	}
	return nil, declared, fmt.Errorf("root element <%s>, want <map>", root.name)
}

// parseXML reads the bytes as ISO-8859-1 whatever they declare, as the classic node does
// (plugins.md 1.2): equal names and patterns on all boxes matter more than right letters.
func parseXML(b []byte) (*element, error) {
	if len(b) > maxDefinition {
		return nil, fmt.Errorf("definition has %d bytes, at most %d are allowed", len(b), maxDefinition)
	}
	var text strings.Builder
	text.Grow(len(b))
	for _, c := range b {
		text.WriteRune(rune(c))
	}
	d := xml.NewDecoder(strings.NewReader(text.String()))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	var root *element
	var stack []*element
	var texts []*strings.Builder // of the open elements
	n := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch t := tok.(type) {
		case xml.StartElement:
			line, _ := d.InputPos()
			if n++; n > maxElements || len(stack) >= maxDepth {
				return nil, fmt.Errorf("line %d: too many or too deeply nested elements", line)
			}
			e := &element{name: t.Name.Local}
			for _, a := range t.Attr {
				if e.attr == nil {
					e.attr = map[string]string{}
				}
				e.attr[a.Name.Local] = a.Value
			}
			if len(stack) > 0 {
				p := stack[len(stack)-1]
				p.children = append(p.children, e)
			} else if root != nil {
				return nil, fmt.Errorf("line %d: a second root element <%s>", line, e.name)
			} else {
				root = e
			}
			stack, texts = append(stack, e), append(texts, new(strings.Builder))
		case xml.EndElement:
			top := len(stack) - 1
			stack[top].text = texts[top].String()
			stack, texts = stack[:top], texts[:top]
		case xml.CharData:
			if len(texts) > 0 {
				texts[len(texts)-1].Write(t)
			}
		}
	}
	if root == nil {
		return nil, errors.New("no XML element")
	}
	return root, nil
}

// value reads an element by the grammar of plugins.md 1.2.
func (e *element) value() (any, error) {
	if _, ok := e.attr["reference"]; ok {
		return nil, fmt.Errorf("<%s reference=…>: references are not read; write the value in full", e.name)
	}
	switch e.name {
	case "string":
		return e.text, nil
	case "int", "long", "short", "byte":
		n, err := strconv.ParseInt(strings.TrimSpace(e.text), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("<%s>%s</%s>: want a decimal integer", e.name, e.text, e.name)
		}
		return n, nil
	case "float", "double":
		f, err := strconv.ParseFloat(strings.TrimSpace(e.text), 64)
		if err != nil {
			return nil, fmt.Errorf("<%s>%s</%s>: want a number", e.name, e.text, e.name)
		}
		return f, nil
	case "boolean":
		return strings.EqualFold(strings.TrimSpace(e.text), "true"), nil
	case "null":
		return nil, nil
	case "list", "linked-list", "vector", "set", "linked-hash-set", "tree-set", "string-array":
		l := list{}
		for _, c := range e.children {
			v, err := c.value()
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		return l, nil
	case "map", "linked-hash-map", "tree-map", "hashtable":
		m := &mapping{}
		for _, c := range e.children {
			if c.name != "entry" {
				return nil, fmt.Errorf("<%s> in a map, want <entry>", c.name)
			}
			// Further children are ignored: published plugins rely on it.
			if len(c.children) < 2 {
				return nil, errors.New("an <entry> without key and value")
			}
			k, err := c.children[0].value()
			if err != nil {
				return nil, err
			}
			v, err := c.children[1].value()
			if err != nil {
				return nil, fmt.Errorf("key %v: %w", k, err)
			}
			if ks, ok := k.(string); ok {
				m.set(ks, v)
			}
		}
		return m, nil
	case "org.lockss.util.None":
		return none{}, nil
	case "org.lockss.util.Default":
		return inherit{}, nil
	}
	return &object{class: strings.ReplaceAll(e.name, "-", "$"), el: e}, nil
}

// castorMap reads the older form (plugins.md 1.3) into the same values.
func castorMap(root *element) (*mapping, error) {
	m := &mapping{}
	for _, c := range root.children {
		if c.name != "MapElement" {
			return nil, fmt.Errorf("<%s> in <Elements>, want <MapElement>", c.name)
		}
		k, v := c.child("ElementKey"), c.child("ElementValue")
		if k == nil || v == nil {
			return nil, errors.New("a <MapElement> without <ElementKey> and <ElementValue>")
		}
		val, err := castorValue(v)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.text, err)
		}
		m.set(k.text, val)
	}
	return m, nil
}

func castorValue(e *element) (any, error) {
	kind := strings.TrimPrefix(e.attr["type"], "java:")
	text := strings.TrimSpace(e.text)
	switch {
	case e.name == "ConfigParamDescr":
		// The fields of the newer form begin with a small letter.
		lower := &element{name: "org.lockss.daemon.ConfigParamDescr"}
		for _, c := range e.children {
			if c.name == "" {
				continue
			}
			lower.children = append(lower.children, &element{name: strings.ToLower(c.name[:1]) + c.name[1:], text: c.text})
		}
		return &object{class: lower.name, el: lower}, nil
	case kind == "java.util.ArrayList":
		l := list{}
		for _, c := range e.children {
			v, err := castorValue(c)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		return l, nil
	case kind == "java.lang.Integer", kind == "java.lang.Long":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: want a decimal integer", text)
		}
		return n, nil
	case kind == "java.lang.Boolean":
		return strings.EqualFold(text, "true"), nil
	case kind == "java.lang.String", e.name == "string":
		return e.text, nil
	}
	return &object{class: kind, el: e}, nil
}
