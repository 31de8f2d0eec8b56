{{/* The labels of every object, as kustomize sets them in manifests/install. */}}
{{- define "railyard.labels" -}}
app.kubernetes.io/part-of: railyard
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "railyard.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/*
The objects in the files of a folder that the chart shares with kustomize, each with our labels and in our namespace.
Takes a list: the root context, a pattern of files, and annotations.
*/}}
{{- define "railyard.shared" -}}
{{- $root := index . 0 }}
{{- $annotations := index . 2 }}
{{- $labels := include "railyard.labels" $root | fromYaml }}
{{- range $path, $data := $root.Files.Glob (index . 1) }}
{{- range $text := regexSplit "(?m)^---$" (toString $data) -1 }}
{{- $object := $text | replace "railyard-system" $root.Release.Namespace | fromYaml }}
{{- if hasKey $object "Error" }}{{ fail (printf "%s: %s" $path $object.Error) }}{{ end }}
{{- if $object.kind }}
{{- $_ := set $object.metadata "labels" (merge (dict) ($object.metadata.labels | default dict) $labels) }}
{{- if $annotations }}
{{- $_ := set $object.metadata "annotations" (merge (dict) ($object.metadata.annotations | default dict) $annotations) }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
