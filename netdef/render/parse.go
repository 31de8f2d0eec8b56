// Copyright The Railyard Authors
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// MaxMetaPlugins bounds the chain behind a network's own plugin.
const MaxMetaPlugins = 32

// parseIPAM reads the JSON of an ipam section. Blank text and {} mean no addresses: nil. The object is returned compact, with
// every string in it byte for byte as it was.
func parseIPAM(field, text string) (json.RawMessage, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	raw, err := readObject(field, []byte(text))
	if err != nil {
		return nil, err
	}
	if string(raw) == "{}" {
		return nil, nil
	}
	return raw, checkType(field, raw)
}

// parseMetaPlugins reads a JSON fragment: objects separated by commas, or one list of objects. Blank text is no plugins.
func parseMetaPlugins(field, text string) ([]json.RawMessage, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	list := text
	if !strings.HasPrefix(text, "[") {
		list = "[" + text + "]"
	}
	var items []json.RawMessage
	if err := decodeOnly([]byte(list), &items); err != nil {
		return nil, fieldErrorf(field, "is no JSON (%v): write one or more objects separated by commas, or a list of them", err)
	}
	if len(items) > MaxMetaPlugins {
		return nil, fieldErrorf(field, "has %d plugins: use at most %d", len(items), MaxMetaPlugins)
	}
	var out []json.RawMessage
	var errs []error
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", field, i)
		raw, err := readObject(at, item)
		if err == nil {
			err = checkType(at, raw)
		}
		if err == nil {
			err = checkShared(at, raw)
		}
		errs = append(errs, err)
		out = append(out, raw)
	}
	return out, errors.Join(errs...)
}

// readObject checks that data is one JSON object and compacts it, which leaves strings alone.
func readObject(field string, data []byte) (json.RawMessage, error) {
	var whole json.RawMessage
	if err := decodeOnly(data, &whole); err != nil {
		return nil, fieldErrorf(field, "is no JSON (%v): write one object, such as {\"type\": \"...\"}", err)
	}
	if whole[0] != '{' {
		return nil, fieldErrorf(field, "is a JSON %s: write an object, such as {\"type\": \"...\"}", kindOf(whole[0]))
	}
	var out bytes.Buffer
	if err := json.Compact(&out, whole); err != nil {
		return nil, fieldErrorf(field, "is no JSON (%v)", err)
	}
	return out.Bytes(), nil
}

// checkType wants the member "type": the plugin's file name in the runtime's folder.
func checkType(field string, object json.RawMessage) error {
	// A map, as the struct decoder would take "TYPE" for "type", which no CNI runtime does.
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return fieldErrorf(field, "is no JSON object (%v)", err)
	}
	raw, ok := members["type"]
	if !ok {
		return fieldErrorf(field+".type", "is missing: name the CNI plugin's binary")
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil || raw[0] != '"' {
		return fieldErrorf(field+".type", "is a JSON %s: write the name of the CNI plugin's binary as a string", kindOf(raw[0]))
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fieldErrorf(field+".type", "%q is no file name: write the bare name of the CNI plugin's binary", name)
	}
	return nil
}

// checkShared refuses a plugin's configuration that no CNI runtime can read, and with it the whole list: a key that all
// plugins share has a value of another kind.
func checkShared(field string, object json.RawMessage) error {
	var wrong *json.UnmarshalTypeError
	switch err := json.Unmarshal(object, &types.PluginConf{}); {
	case errors.As(err, &wrong):
		return fieldErrorf(field+"."+wrong.Field, "is a JSON %s: no CNI runtime takes that", wrong.Value)
	case err != nil:
		return fieldErrorf(field, "cannot be read by a CNI runtime (%v)", err)
	}
	return nil
}

// decodeOnly decodes data, which must hold one JSON value and nothing else.
func decodeOnly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return errors.New("it ends too early")
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something follows after byte %d", d.InputOffset())
	}
	return nil
}

func kindOf(first byte) string {
	switch first {
	case '{':
		return "object"
	case '[':
		return "list"
	case '"':
		return "string"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	default:
		return "number"
	}
}
