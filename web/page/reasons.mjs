// Why a file does not fit a model, or may not: the server says it in English, and this in the other languages of the page.
import { locale, withValues } from "./texts.mjs";

const REASONS = {
  zh: {
    architecture: "为架构 {ours} 拟合，此模型为 {theirs}",
    prediction_kind: "为预测类型 {ours} 拟合，此模型为 {theirs}",
    latent_channels: "为 {ours} 通道的潜空间拟合，此模型有 {theirs} 通道",
    guidance: "在引导强度 {ours} 下拟合，这里是 {theirs}",
    checkpoint_name: "在 {ours} 上拟合，这里是 {theirs}",
    fingerprint: "在其他权重上拟合（检查点指纹不同）",
    several_models: "在另外几个模型上一起拟合（{ours}）",
    patches: "拟合时的权重补丁（LoRA 或合并）与这里不同",
    patches_here_only: "拟合时没有权重补丁（LoRA 或合并），此模型有",
    patches_there_only: "拟合时有权重补丁（LoRA 或合并），此模型没有",
  },
  ja: {
    architecture: "アーキテクチャ {ours} 用にフィットされており、このモデルは {theirs} です",
    prediction_kind: "予測の種類 {ours} 用にフィットされており、このモデルは {theirs} です",
    latent_channels: "{ours} チャンネルの潜在表現用にフィットされており、このモデルは {theirs} チャンネルです",
    guidance: "ガイダンス {ours} でフィットされており、ここでは {theirs} です",
    checkpoint_name: "{ours} でフィットされており、これは {theirs} です",
    fingerprint: "別の重みでフィットされています（チェックポイントの指紋が異なります）",
    several_models: "別の複数のモデルでまとめてフィットされています（{ours}）",
    patches: "フィット時の重みパッチ（LoRA やマージ）がここのものと異なります",
    patches_here_only: "フィット時には重みパッチ（LoRA やマージ）がなく、このモデルにはあります",
    patches_there_only: "フィット時には重みパッチ（LoRA やマージ）があり、このモデルにはありません",
  },
};

/** A difference in words. Results of earlier versions, which a workflow may still hold, are words already. */
export function reason(difference) {
  const text = REASONS[locale()]?.[difference.key];
  return text ? withValues(text, difference) : (difference.words ?? difference);
}

/** Several in one line. */
export const reasons = (differences) => (differences ?? []).map(reason).join("; ");
