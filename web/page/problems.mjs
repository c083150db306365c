// What went wrong: the server says its kind, and what exactly in English; this says the kind in the other languages.
import { locale, withValues } from "./texts.mjs";

const PROBLEMS = {
  zh: {
    DodeError: "D-ODE 出错：{words}",
    GridError: "这组噪声水平不能用：{words}",
    MethodError: "没有这样的求解器，或它没有所要的设置：{words}",
    TableauError: "这些系数不构成求解器：{words}",
    ParameterError: "这些参数不能用在这里：{words}",
    FitError: "无法拟合：{words}",
    ModelError: "这个模型不能这样使用：{words}",
    NotFiniteError: "模型给出了 NaN 或无穷大：{words}",
    ParameterFileError: "参数文件有问题：{words}",
    FileNameError: "这个文件名不能用：{words}",
    FormatError: "参数文件已损坏或不完整：{words}",
    ForeignFileError: "这不是 D-ODE 参数文件：{words}",
    VersionError: "参数文件来自另一个版本，请更新 D-ODE：{words}",
    FileExistsAlready: "已有同名文件，请换一个名称：{words}",
    DependencyError: "缺少所需的软件包：{words}",
    MissingFeature: "此 ComfyUI 缺少所需的功能：{words}",
    FixedFile: "此文件随扩展提供，或位于设置指定的文件夹，不能在这里更改。",
    NothingToUndo: "没有可以恢复的文件。重启之前删除的文件在 .trash 文件夹中。",
    NoSuchFile: "没有这个参数文件。按 R 刷新列表。",
    NoSuchFit: "这个节点上没有可以停止的拟合，也许它刚刚结束。",
    TooLarge: "文件太大：参数文件不超过 2 MiB。",
    NotSaved: "没能按名称保存：{words}",
  },
  ja: {
    DodeError: "D-ODE のエラー：{words}",
    GridError: "このノイズレベルは使えません：{words}",
    MethodError: "そのソルバーがないか、指定の設定がありません：{words}",
    TableauError: "この係数ではソルバーになりません：{words}",
    ParameterError: "このパラメータはここでは使えません：{words}",
    FitError: "フィットできません：{words}",
    ModelError: "このモデルはこのようには使えません：{words}",
    NotFiniteError: "モデルが NaN か無限大を返しました：{words}",
    ParameterFileError: "パラメータファイルに問題があります：{words}",
    FileNameError: "このファイル名は使えません：{words}",
    FormatError: "パラメータファイルが壊れているか、途中で切れています：{words}",
    ForeignFileError: "D-ODE のパラメータファイルではありません：{words}",
    VersionError: "別のバージョンのパラメータファイルです。D-ODE を更新してください：{words}",
    FileExistsAlready: "同じ名前のファイルがあります。別の名前を選んでください：{words}",
    DependencyError: "必要なパッケージがありません：{words}",
    MissingFeature: "この ComfyUI には必要な機能がありません：{words}",
    FixedFile: "このファイルは拡張に付属しているか、設定で指定したフォルダーにあるため、ここでは変更できません。",
    NothingToUndo: "元に戻せるファイルはありません。再起動前に削除したものは .trash フォルダーにあります。",
    NoSuchFile: "そのパラメータファイルはありません。R キーで一覧を更新してください。",
    NoSuchFit: "このノードには停止できるフィットがありません。ちょうど終わったのかもしれません。",
    TooLarge: "大きすぎます：パラメータファイルは 2 MiB までです。",
    NotSaved: "その名前では保存できませんでした：{words}",
  },
};

/** In the language of the page; kind is an error's class, with or without its module. */
export function problem(kind, words) {
  const text = PROBLEMS[locale()]?.[String(kind ?? "").split(".").pop()];
  return text ? withValues(text, { words }) : words;
}

/** The same for what the server answered or lists. */
export const problemOf = (answer) => (answer?.error ? problem(answer.kind, answer.error) : null);
